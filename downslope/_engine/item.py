"""Items: parameters on their way through a rule, and what they share in one step."""

from __future__ import annotations

import copy
import functools
import zlib
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from downslope._core.plan import Node
from downslope._core.roles import ParamInfo
from downslope._engine import sharded
from downslope._engine.codecs import stochastic_rounding
from downslope._engine.storage import rounding_key

if TYPE_CHECKING:
    from downslope._engine.compiled import Compiled
    from downslope._engine.native import Native

__all__ = ["Context", "Item", "seeded"]

Shared = dict[str, dict[str, Any]]


class Item:
    """One parameter on its way through the rule; of a sharded one, what this process holds.

    `p` and `grad` are in computing precision (float32 at least, complex as real), made when they are first read, from
    what is stored: `stored_p` and `stored_grad`, with `sign` -1 where the objective is maximised. `u` is the running
    update; what another executor has put off (`deferred`) is run when `u` is read. `start` is the place at which this
    part of the tensor begins in the whole one, counted row by row; `stochastic` is how bfloat16 parameters are rounded.
    """

    def __init__(
        self,
        parameter: Tensor,
        info: ParamInfo,
        group: dict[str, Any],
        route: tuple[str, ...],
        state: MutableMapping[str, Any],
        *,
        stored_p: Tensor,
        stored_grad: Tensor,
        sign: float = 1.0,
        step: int,
        seed: int = 0,
        signals: dict[str, Any] | None = None,
        u: Tensor | None = None,
        start: int = 0,
        stochastic: bool = False,
        layout: sharded.Layout | None = None,
    ) -> None:
        self.parameter, self.info, self.group, self.route, self.state = parameter, info, group, route, state
        self.layout = layout
        self.stored_p, self.stored_grad, self.sign = stored_p, stored_grad, sign
        self.step, self.seed, self.signals = step, seed, {} if signals is None else signals
        self.start, self.stochastic = start, stochastic
        self.incoming: Tensor | None = None
        self.made = u
        self.deferred: list[Any] = []
        self.settle: Callable[[list[Item]], None] | None = None

    @classmethod
    def of(
        cls,
        parameter: Tensor,
        info: ParamInfo,
        group: dict[str, Any],
        route: tuple[str, ...],
        state: dict[str, Any],
        sign: float,
        seed: int,
        signals: dict[str, Any],
        stochastic: bool = False,
    ) -> Item:
        """The item of a parameter; one without a gradient here has it on another process, and zeros here."""
        layout = sharded.layout_of(parameter)
        signals = {k: _computing(_here(v, parameter)) if isinstance(v, Tensor) else v for k, v in signals.items()}
        stored_p = _real(sharded.local(parameter.detach()))
        stored_grad = torch.zeros_like(stored_p)
        if parameter.grad is not None:
            stored_grad = _real(_here(parameter.grad.detach(), parameter))
        step = state.get("step", 0) + 1
        return cls(
            parameter,
            info,
            group,
            route,
            state if layout is None else sharded.LocalState(state, layout),
            stored_p=stored_p,
            stored_grad=stored_grad,
            sign=sign,
            step=step,
            seed=seed,
            signals=signals,
            stochastic=stochastic,
            layout=layout,
            start=0 if layout is None else layout.start,
        )

    @property
    def divided(self) -> bool:
        """Whether other processes hold the rest of the parameter."""
        return self.layout is not None and bool(self.layout.axes)

    @functools.cached_property
    def p(self) -> Tensor:
        """The parameter before the step."""
        return _computing(self.stored_p)

    @functools.cached_property
    def grad(self) -> Tensor:
        """The gradient, with its sign."""
        grad = _computing(self.stored_grad).to(self.p.dtype)
        return grad if self.sign > 0 else -grad

    @property
    def u(self) -> Tensor:
        """The running update, which starts as the gradient."""
        if self.deferred:
            assert self.settle is not None
            self.settle([self])
        return self.grad if self.made is None else self.made

    @u.setter
    def u(self, u: Tensor) -> None:
        self.made, self.deferred = u, []

    @property
    def from_gradient(self) -> bool:
        """Whether no update has been made from the gradient yet, though some may have been put off."""
        return self.made is None

    @property
    def rounded(self) -> bool:
        """Whether the new parameter is rounded stochastically."""
        return self.stochastic and self.stored_p.dtype == torch.bfloat16

    def bare(self) -> Item:
        """An item without its tensors, for what reads other things."""
        bare = copy.copy(self)
        bare.stored_p = bare.stored_grad = bare.p = bare.grad = torch.empty(0, device=self.stored_p.device)
        bare.made, bare.deferred, bare.state = None, [], {}
        return bare

    def with_step(self, step: int) -> Item:
        """The same item with another count of steps."""
        other = copy.copy(self)
        other.step, other.deferred = step, list(self.deferred)
        return other

    def with_update(self, u: Tensor) -> Item:
        """The same item with another update."""
        other = copy.copy(self)
        other.u = u
        return other

    def whole(self, tensors: Mapping[str, Tensor], state: dict[str, Any]) -> Item:
        """The item of the whole parameter: its `p`, `u`, `grad` (if not u), `incoming` and signals, and its state."""
        own = Item(
            tensors["p"],
            self.info,
            self.group,
            self.route,
            state,
            stored_p=tensors["p"],
            stored_grad=tensors.get("grad", tensors["u"]),
            step=self.step,
            seed=self.seed,
            signals={k: tensors.get(f"signal {k}", v) for k, v in self.signals.items()},
            u=tensors["u"] if "grad" in tensors else None,
        )
        own.incoming = tensors.get("incoming")
        return own

    def follow(self, other: Item) -> None:
        """Take over what has become of the update of another view of this item."""
        self.made, self.deferred = other.made, other.deferred

    def finish(self) -> None:
        """Write the new parameter and count the step."""
        parameter = sharded.local(self.parameter)
        u = torch.view_as_complex(self.u.contiguous()) if parameter.is_complex() else self.u
        if self.rounded:
            u = stochastic_rounding(u, rounding_key(self.seed, self.state, self.info, ""), self.start)
        parameter.copy_(u)
        self.state["step"] = self.step


@dataclass
class Context:
    """What all parameters share in one step.

    Items go `together` where processes exchange them; a step that only `makes_state` runs what is not due as well.
    """

    state: Mapping[Any, Any]
    shared: Shared
    step: int
    max_lr: float
    peers: Callable[[tuple[str, ...]], tuple[ParamInfo, ...]]
    visible: SimpleNamespace | None = None
    together: bool = False
    makes_state: bool = False
    native: Native | Compiled | None = None

    def batches(self, node: Node, items: Iterable[Item]) -> Iterable[list[Item]]:
        """The items that must go through a rule side by side."""
        return [list(items)] if node.is_global or self.together else ([item] for item in items)


def seeded(seed: int, step: int, info: ParamInfo, device: torch.device) -> torch.Generator:
    """A generator that depends on seed, step and the parameter's name (its shape, where it has none) alone."""
    key = zlib.crc32(f"{seed}/{step}/{info.label}".encode())
    return torch.Generator(device=device).manual_seed(key)


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


def _computing(x: Tensor) -> Tensor:
    x = _real(x.detach())
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _here(x: Tensor, parameter: Tensor) -> Tensor:
    """This process's piece of a tensor in the shape of a parameter."""
    piece: Tensor = sharded.local(sharded.sharded_like(x, parameter))
    return piece
