"""Whole tensors for the rules that need them: each sharded parameter is computed by one process, for all.

Two exchanges a rule: the pieces of everything that the rule reads go to the process that computes the parameter; the
pieces of the new update and of changed state come back, with a header that says what they are, as shapes of state may
follow from its values.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from downslope._engine.sharded import Layout, is_sharded, layout_of, local
from downslope._engine.storage import SCALE

if TYPE_CHECKING:
    from downslope._core.plan import Node
    from downslope._engine.item import Item

__all__ = ["run_whole"]

BUCKET = 1 << 26
"""Elements per process that one exchange takes at most, unless a single tensor is larger."""


def run_whole(node: Node, items: list[Item], run: Callable[[Item], None]) -> None:
    """Run a rule that needs whole parameters on sharded ones: `run` gets each of them whole, on one process."""
    by_place: dict[tuple[Any, int], list[Item]] = {}
    for item in items:
        assert item.layout is not None
        (axis,) = item.layout.axes
        by_place.setdefault((item.layout.mesh, axis), []).append(item)
    for (mesh, axis), members in by_place.items():
        for bucket in _buckets(members, BUCKET * mesh.size(axis)):
            _Exchange(node, bucket, mesh, axis).run(run)


def _buckets(items: list[Item], limit: int) -> Iterator[list[Item]]:
    bucket: list[Item] = []
    size = 0
    for item in items:
        elements = math.prod(_layout(item).shape)
        if bucket and size + elements > limit:
            yield bucket
            bucket, size = [], 0
        bucket.append(item)
        size += elements
    yield bucket


def _layout(item: Item) -> Layout:
    assert item.layout is not None
    return item.layout


def _owners(items: list[Item], processes: int) -> list[int]:
    """Which process computes which item: the dearest first, each to the process that has least to do."""
    costs = []
    for item in items:
        shape = _layout(item).shape
        rows, elements = (shape or (1,))[0], math.prod(shape)
        costs.append(elements * min(rows, elements // rows) if elements else 0)  # of a product with its transpose
    owners, loads = [0] * len(items), [0] * processes
    for i in sorted(range(len(items)), key=lambda i: (-costs[i], i)):
        owners[i] = loads.index(min(loads))
        loads[owners[i]] += costs[i] + 1
    return owners


def _lengths(n: int, parts: int) -> list[int]:
    """How many rows of n each process holds: as torch.chunk cuts."""
    size = -(-n // parts)
    return [max(0, min(size, n - i * size)) for i in range(parts)]


@dataclass
class _Form:
    """A tensor on its way: its whole shape, the axis along which it is cut (None: all get the whole), its dtype."""

    shape: tuple[int, ...]
    axis: int | None
    dtype: torch.dtype

    def piece(self, rank: int, parts: int) -> tuple[int, ...]:
        """The shape of one process's piece."""
        if self.axis is None:
            return self.shape
        length = _lengths(self.shape[self.axis], parts)[rank]
        return (*self.shape[: self.axis], length, *self.shape[self.axis + 1 :])

    def cut(self, whole: Tensor, parts: int) -> Sequence[Tensor]:
        """The pieces of all processes."""
        if self.axis is None:
            return [whole] * parts
        pieces: Sequence[Tensor] = whole.split(_lengths(self.shape[self.axis], parts), self.axis)
        return pieces


class _Exchange:
    """One way there and back: pieces to the process that computes the whole, pieces of the results to everyone."""

    def __init__(self, node: Node, items: list[Item], mesh: Any, axis: int) -> None:
        self.items, self.axis, self.group = items, axis, mesh.get_group(axis)
        self.rank, self.parts = mesh.get_local_rank(axis), mesh.size(axis)
        self.owners = _owners(items, self.parts)
        self.needs = {need for leaf in node.leaves() for need in leaf.transform.needs}
        self.keys = {key for leaf in node.leaves() for key in leaf.slots.values()}

    def run(self, run: Callable[[Item], None]) -> None:
        """Compute the items of this process whole, and set the new update and state of all of them."""
        inputs = [self._inputs(item) for item in self.items]
        packets = [_Packet() for _ in range(self.parts)]
        for owner, tensors in zip(self.owners, inputs, strict=True):
            for tensor, _ in tensors.values():
                packets[owner].add(tensor)
        mine = [i for i, owner in enumerate(self.owners) if owner == self.rank]
        forms = [form for i in mine for _, form in inputs[i].values()]
        sizes = [sum(_bytes(form.piece(r, self.parts), form.dtype) for form in forms) for r in range(self.parts)]
        received = self._send(packets, sizes)
        results = [_Packet() for _ in range(self.parts)]
        for i in mine:
            whole = {name: self._join(received, form) for name, (_, form) in inputs[i].items()}
            self._compute(i, whole, run, results)
        counts = torch.tensor([each.size for each in results], device=self._device)
        incoming = torch.empty_like(counts)
        dist.all_to_all_single(incoming, counts, group=self.group)
        for reader in self._send(results, incoming.tolist()):
            while not reader.at_end:
                self._accept(reader)

    @property
    def _device(self) -> torch.device:
        return self.items[0].u.device

    def _send(self, packets: list[_Packet], sizes: list[int]) -> list[_Reader]:
        buffer = torch.empty(sum(sizes), dtype=torch.uint8, device=self._device)
        sent = torch.cat([part for packet in packets for part in packet.parts] or [buffer[:0]])
        dist.all_to_all_single(buffer, sent, sizes, [packet.size for packet in packets], group=self.group)
        return [_Reader(part) for part in buffer.split(sizes)]

    def _inputs(self, item: Item) -> dict[str, tuple[Tensor, _Form]]:
        """What the rule may read of an item, in the same order on every process: local pieces and their form."""
        layout, stored = _layout(item), item.state.stored  # type: ignore[attr-defined]
        shaped = {"u": item.u, "p": item.p, "grad": item.grad if item.grad is not item.u else None}
        shaped |= {"incoming": item.incoming}
        shaped |= {f"signal {k}": v for k, v in sorted(item.signals.items()) if k in self.needs}
        found = {
            name: (value, self._form(layout, value.dtype))
            for name, value in shaped.items()
            if isinstance(value, Tensor)
        }
        for key in sorted(stored):
            if is_sharded(stored[key]) and key.removesuffix(SCALE) in self.keys:
                of_state = layout_of(stored[key])
                assert of_state is not None
                found[f"state {key}"] = (local(stored[key]), self._form(of_state, stored[key].dtype))
        return found

    def _form(self, layout: Layout, dtype: torch.dtype) -> _Form:
        return _Form(layout.shape, layout.placements[self.axis].dim, dtype)

    def _join(self, received: list[_Reader], form: _Form) -> Tensor:
        pieces = [reader.take(form.piece(r, self.parts), form.dtype) for r, reader in enumerate(received)]
        assert form.axis is not None
        return torch.cat(pieces, form.axis)

    def _compute(self, i: int, whole: dict[str, Tensor], run: Callable[[Item], None], results: list[_Packet]) -> None:
        item = self.items[i]
        before = {k: v for k, v in item.state.stored.items() if not is_sharded(v)}  # type: ignore[attr-defined]
        before |= {k.removeprefix("state "): v for k, v in whole.items() if k.startswith("state ")}
        versions = {k: v._version for k, v in before.items() if isinstance(v, Tensor)}
        state = dict(before)
        own = item.whole(whole, state)
        run(own)
        update = own.u
        keys = {
            k.removesuffix(SCALE)
            for k, v in state.items()
            if v is not before.get(k) or (isinstance(v, Tensor) and v._version != versions[k])
        }
        changed = {k: v for k, v in state.items() if k.removesuffix(SCALE) in keys}
        tensors = {"": update} | {k: v for k, v in changed.items() if isinstance(v, Tensor)}
        forms = {k: self._result_form(_layout(item), v) for k, v in tensors.items()}
        values = {k: v for k, v in changed.items() if not isinstance(v, Tensor)}
        header = pickle.dumps((i, forms, values, [k for k in before if k not in state]))
        for packet in results:
            packet.add(torch.tensor([len(header)], device=self._device))
            packet.add(torch.frombuffer(bytearray(header), dtype=torch.uint8).to(self._device))
        for key, tensor in tensors.items():
            for packet, piece in zip(results, forms[key].cut(tensor, self.parts), strict=True):
                packet.add(piece)

    def _result_form(self, layout: Layout, value: Tensor) -> _Form:
        if value.ndim == 0:
            return _Form((), None, value.dtype)
        return self._form(layout.of_state(value.shape), value.dtype)

    def _accept(self, reader: _Reader) -> None:
        (length,) = reader.take((1,), torch.int64).tolist()
        i, forms, values, removed = pickle.loads(bytes(reader.take((length,), torch.uint8).tolist()))
        item = self.items[i]
        stored = item.state.stored  # type: ignore[attr-defined]
        for key in removed:
            del stored[key]
        stored |= values
        for key, form in forms.items():
            piece = reader.take(form.piece(self.rank, self.parts), form.dtype).clone()
            if key == "":
                item.u = piece
            else:
                stored[key] = piece if form.axis is None else _layout(item).of_state(form.shape).wrap(piece)


def _bytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    """The bytes of a tensor in a packet, in which every tensor starts at a multiple of 8."""
    size = math.prod(shape) * dtype.itemsize
    return size + -size % 8


class _Packet:
    """Tensors of any dtype as bytes, one behind the other."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []
        self.size = 0

    def add(self, x: Tensor) -> None:
        """Append a tensor."""
        flat = x.detach().reshape(-1)
        dense = flat if flat.stride(0) == 1 else flat.clone(memory_format=torch.contiguous_format)
        raw = dense.view(torch.uint8)
        self.parts += [raw, raw.new_zeros(-len(raw) % 8)]
        self.size += len(raw) + -len(raw) % 8


class _Reader:
    """Takes tensors out of received bytes, as they were packed."""

    def __init__(self, buffer: Tensor) -> None:
        self.buffer, self.at = buffer, 0

    @property
    def at_end(self) -> bool:
        """Whether all has been taken."""
        return self.at == len(self.buffer)

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """The next tensor, in the buffer's memory."""
        size = math.prod(shape) * dtype.itemsize
        part = self.buffer[self.at : self.at + size]
        self.at += size + -size % 8
        return part.view(dtype).reshape(tuple(shape)) if size else part.new_empty(tuple(shape), dtype=dtype)
