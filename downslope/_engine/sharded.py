"""Sharded parameters (DTensor): every rule runs on plain tensors of this process, and talks to others only if it must.

- `element` rules run on the local pieces, without communication.
- `tensor` rules, and whatever stands in a subspace, get whole tensors: each parameter goes to one process, the costs
  spread evenly, which computes it and sends the pieces of the result back. State in the parameter's shape is divided as
  the parameter is, state of another shape along its first axis, numbers are kept by every process.
- What `global` rules measure is added up over the processes that hold different pieces; replicas count once.

Plain tensors pass through untouched: one process, or DistributedDataParallel, whose replicas see the same gradients.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from downslope._checks import ArgumentError, refuse

if TYPE_CHECKING:
    from downslope._core.plan import Node
    from downslope._core.roles import ParamInfo

__all__ = [
    "Layout",
    "LocalState",
    "absent_here",
    "admit",
    "entire",
    "is_divided",
    "is_sharded",
    "layout_of",
    "local",
    "mean_loss",
    "sharded_like",
    "share",
    "state_for",
    "total",
]


def is_sharded(x: Any) -> bool:
    """Whether a value is a DTensor."""
    module = sys.modules.get("torch.distributed.tensor")  # not loaded: there is no such tensor in this program
    return module is not None and isinstance(x, module.DTensor)


@dataclass(frozen=True)
class Layout:
    """How the processes of a mesh hold a tensor; `shape` is that of the whole, complex numbers as pairs."""

    mesh: Any
    placements: tuple[Any, ...]
    shape: tuple[int, ...]

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the mesh along which processes hold different pieces."""
        return tuple(i for i, each in enumerate(self.placements) if not each.is_replicate() and self.mesh.size(i) > 1)

    @property
    def by_rows(self) -> bool:
        """Whether a process holds elements that follow each other in the whole tensor."""
        from torch.distributed.tensor import Shard

        return [self.placements[axis] for axis in self.axes] in ([], [Shard(0)])

    @property
    def start(self) -> int:
        """Where this process's piece begins in the whole tensor, row by row, if it is cut by rows."""
        if not self.axes or not self.by_rows:
            return 0
        (axis,) = self.axes
        rank: int = self.mesh.get_local_rank(axis)
        length = -(-self.shape[0] // self.mesh.size(axis))
        first = min(rank * length, self.shape[0])
        return int(first * math.prod(self.shape[1:]))

    def wrap(self, piece: Tensor) -> Tensor:
        """The DTensor of which this process holds `piece`."""
        from torch.distributed.tensor import DTensor

        stride = torch.empty(self.shape, device="meta").stride()
        whole: Tensor = DTensor.from_local(
            piece, self.mesh, self.placements, run_check=False, shape=torch.Size(self.shape), stride=stride
        )
        return whole

    def of_state(self, shape: Sequence[int]) -> Layout:
        """The layout of a state: this one in the parameter's shape, else divided along its first axis."""
        from torch.distributed.tensor import Replicate, Shard

        if tuple(shape) == self.shape:
            return self
        divided = self.axes
        placements = tuple(Shard(0) if i in divided else Replicate() for i in range(self.mesh.ndim))
        return Layout(self.mesh, placements, tuple(shape))


def layout_of(x: Tensor) -> Layout | None:
    """How a tensor is spread over processes; None of a plain tensor."""
    if not is_sharded(x):
        return None
    shape = (*x.shape, 2) if x.is_complex() else tuple(x.shape)
    return Layout(x.device_mesh, tuple(x.placements), shape)  # type: ignore[attr-defined]


def is_divided(x: Tensor) -> bool:
    """Whether other processes hold the rest of a tensor."""
    layout = layout_of(x)
    return layout is not None and bool(layout.axes)


def local(x: Any) -> Any:
    """What this process holds of a DTensor, in the same memory; anything else as it is."""
    return x.detach().to_local() if is_sharded(x) else x


def share(p: Tensor) -> str:
    """What the manifest says of a parameter that several processes hold in pieces."""
    layout = layout_of(p)
    parts = math.prod(layout.mesh.size(axis) for axis in layout.axes) if layout is not None else 1
    return f", sharded over {parts}" if parts > 1 else ""


def entire(x: Tensor) -> Tensor:
    """The whole of a tensor on every process."""
    whole: Tensor = x.full_tensor() if is_sharded(x) else x  # type: ignore[attr-defined]
    return whole


def sharded_like(x: Tensor, like: Tensor) -> Tensor:
    """`x` spread over processes as `like` is; of a whole plain tensor every process keeps its own piece."""
    if not is_sharded(like):
        return x
    from torch.distributed.tensor import DTensor, Replicate

    if not is_sharded(x):
        mesh = like.device_mesh  # type: ignore[attr-defined]
        x = DTensor.from_local(x, mesh, [Replicate()] * mesh.ndim, run_check=False)
    if x.placements != like.placements:  # type: ignore[attr-defined]
        x = x.redistribute(like.device_mesh, like.placements)  # type: ignore[attr-defined]
    return x


def state_for(value: Tensor, p: Tensor) -> Tensor:
    """A state as it is kept for a parameter, wherever it comes from: every process keeps its piece of a whole one."""
    layout = layout_of(p)
    if layout is not None and value.ndim > 0:
        layout = layout.of_state(value.shape)
        if is_sharded(value) and layout_of(value) == layout:
            return value
    value = entire(value)
    if layout is None or value.ndim == 0:
        return value
    from torch.distributed.tensor import DTensor, Replicate

    whole = DTensor.from_local(value, layout.mesh, [Replicate()] * layout.mesh.ndim, run_check=False)
    return layout.wrap(whole.redistribute(layout.mesh, layout.placements).to_local().clone())


class LocalState(MutableMapping[str, Any]):
    """The state of a sharded parameter as rules see it: plain tensors of this process, DTensors where they are kept."""

    def __init__(self, stored: dict[str, Any], layout: Layout) -> None:
        self.stored, self.layout = stored, layout

    def __getitem__(self, key: str) -> Any:
        return local(self.stored[key])

    def __setitem__(self, key: str, value: Any) -> None:
        if isinstance(value, Tensor) and value.ndim > 0 and not is_sharded(value):
            value = self.layout.wrap(value)
        self.stored[key] = value

    def __delitem__(self, key: str) -> None:
        del self.stored[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


# ---------------------------------------------------------------- numbers from all processes


def absent_here(params: Sequence[Tensor]) -> set[Tensor]:
    """The sharded parameters that have a gradient on another process and none here; all processes must ask."""
    by_mesh: dict[Any, list[Tensor]] = {}
    for p in params:
        layout = layout_of(p)
        if layout is not None and layout.axes:
            by_mesh.setdefault(layout.mesh, []).append(p)
    found = set()
    for mesh, members in by_mesh.items():
        present = torch.tensor([p.grad is not None for p in members], dtype=torch.uint8, device=mesh.device_type)
        for axis in range(mesh.ndim):
            dist.all_reduce(present, dist.ReduceOp.MAX, mesh.get_group(axis))
        found |= {p for p, anywhere in zip(members, present.tolist(), strict=True) if anywhere and p.grad is None}
    return found


def total(measured: Sequence[tuple[Layout | None, Mapping[str, float]]], reduce: Mapping[str, str]) -> dict[str, float]:
    """The numbers measured on parameters, added up (or their largest) over parameters and processes."""
    by_place: dict[Any, list[Mapping[str, float]]] = {}
    for layout, values in measured:
        place = (layout.mesh, layout.axes) if layout is not None and layout.axes else None
        by_place.setdefault(place, []).append(values)
    sums = []
    for place, here in by_place.items():
        sum_here = _add(here, reduce)
        for axis in place[1] if place else ():
            gathered = _gather(list(sum_here.values()), place[0], axis)
            sum_here = _add([dict(zip(sum_here, row, strict=True)) for row in gathered], reduce)
        sums.append(sum_here)
    return _add(sums, reduce)


def _add(rows: Sequence[Mapping[str, float]], reduce: Mapping[str, str]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            if name not in sums:
                sums[name] = value
            elif reduce.get(name) == "max":
                sums[name] = math.nan if math.isnan(value) else max(sums[name], value)
            else:
                sums[name] += value
    return sums


def _gather(values: list[float], mesh: Any, axis: int) -> list[list[float]]:
    """The same numbers of every process along an axis of the mesh, in its order."""
    own = torch.tensor(values, dtype=torch.float64, device=mesh.device_type)
    every = [torch.empty_like(own) for _ in range(mesh.size(axis))]
    dist.all_gather(every, own, mesh.get_group(axis))
    return [each.tolist() for each in every]


def mean_loss(owner: str, loss: float, params: Sequence[Tensor], replicas: Any = None) -> float:
    """The loss of the batch of all processes: the mean of theirs.

    Those are the processes of the largest mesh that holds a parameter, or the group `replicas` of
    DistributedDataParallel.
    """
    meshes = [layout.mesh for layout in map(layout_of, params) if layout is not None]
    if meshes:
        mesh = max(meshes, key=lambda mesh: mesh.size())
        for axis in range(mesh.ndim):
            losses = _gather([loss], mesh, axis)
            loss = sum(row[0] for row in losses) / len(losses)
        return loss
    if replicas is None:
        _refuse_unknown_processes(owner, "the loss of all processes")
        return loss
    sums = torch.tensor([loss], dtype=torch.float64, device=params[0].device)
    dist.all_reduce(sums, group=replicas)
    return float(sums) / dist.get_world_size(replicas)


# ---------------------------------------------------------------- what cannot be right is refused


def admit(owner: str, node: Node, transform: Any, info: ParamInfo, p: Tensor, stochastic: bool) -> None:
    """Refuse a sharded parameter that a leaf of the rule cannot take right; `stochastic` is how it may be rounded."""
    layout = layout_of(p)
    if layout is None:
        return
    if getattr(transform, "curvature", None) == "hutchinson":
        raise ArgumentError(
            f"{owner}: cannot draw the curvature of {info.label}, as gradients of sharded parameters have no graph; "
            "take a rule without Hutchinson's estimate, such as ds.SophiaG."
        )
    name = type(transform).__name__
    if node.in_subspace and transform.scope == "global":
        raise ArgumentError(
            f"{owner}: {name} needs all parameters at once and cannot stand in a subspace of sharded ones such as "
            f"{info.label}; put it before or behind the subspace."
        )
    forms = {node.storage.form(info, node.slots[slot.name], slot, tuple(p.shape))[0] for slot in transform.kept()}
    if layout.axes and transform.scope == "global" and not forms <= {"float32"}:
        refuse(owner, "state_dtype", f"'float32' for the state of {name} of sharded parameters", ", ".join(forms))
    if stochastic and p.dtype == torch.bfloat16 and not layout.by_rows:
        refuse(owner, f"{info.label}, rounded stochastically,", "cut by rows", ", ".join(map(str, layout.placements)))
    needs_whole = node.in_subspace or transform.scope == "tensor" or not forms <= {"float32"}
    if needs_whole and not _is_cut_once(layout):
        refuse(
            owner,
            f"{info.label}",
            f"sharded along one axis of the mesh, as {name} needs the whole of it",
            ", ".join(map(str, layout.placements)),
        )
    own = next((slot.name for slot in transform.kept() if callable(slot.shape)), None)
    if not needs_whole and layout.axes and own is not None:
        refuse(owner, f"the shape of {name}'s {own}", "'param' or 'scalar' for sharded parameters", "a function")


def admit_processes(owner: str, plan: Node, params: Sequence[Tensor], replicas: Any) -> None:
    """Refuse rules that would need other processes which we cannot know, or whose gradients have no right graph."""
    if any(is_sharded(p) for p in params):
        return
    leaves = [leaf.transform for leaf in plan.leaves()]
    if any(getattr(t, "curvature", None) == "hutchinson" for t in leaves) and _processes() > 1:
        raise ArgumentError(
            f"{owner}: Hutchinson's estimate of the curvature cannot be drawn over several processes, as "
            "DistributedDataParallel averages gradients without their graph; take a rule without it, as ds.SophiaG."
        )
    if any("loss" in t.needs for t in leaves) and replicas is None:
        _refuse_unknown_processes(owner, "the loss of all processes")


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _refuse_unknown_processes(owner: str, what: str) -> None:
    if _processes() > 1:
        raise ArgumentError(
            f"{owner}: needs {what}, and cannot tell which processes share the model; "
            "pass the DistributedDataParallel model itself in place of its parameters."
        )


def _is_cut_once(layout: Layout) -> bool:
    from torch.distributed.tensor import Shard

    return len(layout.axes) <= 1 and all(type(layout.placements[axis]) is Shard for axis in layout.axes)
