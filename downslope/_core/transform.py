"""Transform: the contract of a method. A record of hyperparameters, the state it keeps, and one pure update."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, NoReturn

import torch
from torch import Tensor
from typing_extensions import dataclass_transform

from downslope._checks import check_form, check_hyperparameter, plain, refuse
from downslope._core.roles import ParamInfo

__all__ = ["GlobalTransform", "Projector", "Slot", "State", "Transform"]

State = Any  # attribute access to the slots by name
Hyper = Any  # attribute access to hyperparameters, step, lr and signals
Updates = Mapping[str, Tensor]
Scope = Literal["element", "tensor", "global"]
Stage = Literal["direction", "step", "parameter"]


@dataclass(frozen=True)
class Slot:
    """One tensor of state kept for a parameter (or, in `GlobalTransform.shared`, one value kept for the optimizer).

    Args:
        name: how the state is called in `optimizer.state[p]`.
        doc: its meaning.
        shape: `"param"`, `"scalar"`, or a function of (transform, template) that gives the shape; the template is the
            parameter, or the projected parameter inside `project`.
        init: the number it starts from, `"param"` for a copy of the parameter, or a function of the transform.
        dtype: `"param"` (float32 for half precision parameters) or a torch dtype.
        when: kept only if this function of the transform says so.
        nonnegative: no value is ever below zero, whatever the gradients; low-bit storage spends no code on a sign then.
    """

    name: str
    doc: str
    shape: str | Callable[[Any, Tensor], tuple[int, ...]] = "param"
    init: float | str | Callable[[Any], Any] = 0.0
    dtype: str | torch.dtype = "param"
    when: Callable[[Any], bool] | None = None
    nonnegative: bool = False

    def shape_for(self, transform: Any, template: Tensor) -> tuple[int, ...]:
        """The shape that this slot has for a parameter like `template`."""
        if callable(self.shape):
            return self.shape(transform, template)
        return tuple(template.shape) if self.shape == "param" else ()

    def initial(self, transform: Transform, template: Tensor) -> Tensor:
        """The tensor that this slot starts from, for a parameter like `template` (already in computing precision)."""
        dtype = template.dtype if self.dtype == "param" else self.dtype
        assert isinstance(dtype, torch.dtype)
        if self.init == "param":
            return template.detach().to(dtype, copy=True)
        value: Any = self.init(transform) if callable(self.init) else self.init
        if self.shape == "param":
            return torch.full_like(template, value, dtype=dtype)
        return torch.full(self.shape_for(transform, template), value, dtype=dtype, device=template.device)


@dataclass_transform(frozen_default=True)
class Transform:
    """A step of the way from gradient to parameter.

    A subclass is a frozen dataclass by itself: its annotated fields are the hyperparameters. Fields of floats are
    *live*: they may change at every step, stand in the param groups and are read from `h`. All other fields (bool,
    int, str) are *structure* and are read from `self`.

    Class attributes:
        scope: `"element"` (elementwise: any executor may fuse, cut or shard it), or `"tensor"` (needs the whole
            parameter). What needs all parameters at once derives from `GlobalTransform`.
        stage: `"direction"` (changes the running update), `"step"` (turns the update into the new parameter) or
            `"parameter"` (changes the new parameter).
        needs: signals besides the gradient: `"loss"`, `"curvature"`, `"previous_gradient"`.
        slots: the state kept for a parameter.
        fixed: fields of floats that are structure all the same.
    """

    scope: ClassVar[Scope] = "element"
    stage: ClassVar[Stage] = "direction"
    needs: ClassVar[frozenset[str]] = frozenset()
    slots: ClassVar[tuple[Slot, ...]] = ()
    fixed: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(frozen=True)(cls)

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for f in fields(self):  # type: ignore[arg-type]
            value = plain(getattr(self, f.name))
            object.__setattr__(self, f.name, value)
            if f.name in self.live() or f.type in ("int", int):
                if not any(open_form in str(f.type) for open_form in ("None", "...")):
                    check_form(owner, f.name, value, f.default)
                if value is not None and not _has_schedule(value):
                    check_hyperparameter(owner, f.name, value)
                if f.type in ("int", int) and value != int(value):
                    refuse(owner, f.name, "a whole number", value)
            elif f.type in ("bool", bool) and not isinstance(value, bool):
                refuse(owner, f.name, "True or False", value)
        self.check()

    def check(self) -> None:
        """Refuse values that break a rule which the glossary does not know; called at construction."""

    def check_lr(self, lr: float) -> None:
        """Refuse a learning rate that the rule cannot start from; called for every param group at construction."""

    def check_parameter(self, info: ParamInfo) -> None:
        """Refuse a parameter that the rule cannot take; called for every parameter at construction."""

    def one_of(self, argument: str, *allowed: str) -> None:
        """Refuse a value of structure that is none of `allowed`."""
        value = getattr(self, argument)
        if value not in allowed:
            words = [repr(each) for each in allowed]
            self.refuse(argument, " or ".join(words) if len(words) == 2 else f"one of {', '.join(words)}", value)

    def refuse(self, argument: str, rule: str, got: object, instead: str = "") -> NoReturn:
        """Raise the one sentence about a bad argument."""
        refuse(type(self).__name__, argument, rule, got, instead)

    def update(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Tensor, Updates]:
        """The maths: `(u, p, state, h) -> (u', changed slots)`; pure, and slots not returned keep their value."""
        raise NotImplementedError

    @classmethod
    @functools.cache
    def live(cls) -> tuple[str, ...]:
        """Names of the hyperparameters that may change at every step."""
        floats = (f.name for f in fields(cls) if "float" in str(f.type))  # type: ignore[arg-type]
        return tuple(name for name in floats if name not in cls.fixed)

    @classmethod
    @functools.cache
    def structure(cls) -> tuple[str, ...]:
        """Names of the hyperparameters that shape the computation."""
        live = cls.live()
        return tuple(f.name for f in fields(cls) if f.name not in live)  # type: ignore[arg-type]

    def kept(self) -> tuple[Slot, ...]:
        """The slots that this record really keeps."""
        return tuple(s for s in self.slots if s.when is None or s.when(self))


class GlobalTransform(Transform):
    """A transform that needs all parameters at once, as measure → sum → combine → update.

    `measure` gives numbers that are added over all parameters, and over the pieces of a parameter that several
    processes share, so they must be sums over elements. `combine` turns the sums and the shared values into new shared
    values, once per step, and `update`, elementwise, reads them as `h.shared.<name>`.
    Hyperparameters other than `lr` and `weight_decay` may not differ between param groups.

    Class attributes:
        shared: the values kept for the optimizer; numbers or tensors.
        reduce: measured names that are not added up but reduced by `"max"`.
    """

    scope = "global"
    reduce: ClassVar[Mapping[str, str]] = {}
    shared: ClassVar[tuple[Slot, ...]] = ()

    def measure(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Mapping[str, Tensor], Updates]:
        """Numbers to add up over all parameters, and changed slots; `h.shared` holds the values of the last step."""
        raise NotImplementedError

    def combine(self, sums: Any, shared: Any, h: Hyper) -> Mapping[str, Any]:
        """New shared values from the sums; `h.step` is the optimizer's own count of steps."""
        raise NotImplementedError

    def update(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Tensor, Updates]:
        """As `Transform.update`, after `combine`."""
        return u, {}


class Projector(Transform):
    """A subspace for `project` and `split`: its basis is state, refreshed at a fixed rhythm of steps."""

    scope = "tensor"

    def applies(self, p: Tensor) -> bool:
        """Whether a parameter of this shape is projected at all."""
        return p.ndim == 2

    def due(self, step: int) -> bool:
        """Whether the basis is refreshed at this step (1, 2, …); step 1 must be."""
        raise NotImplementedError

    def refresh(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> Updates:
        """The new basis."""
        raise NotImplementedError

    def down(self, u: Tensor, state: State) -> Tensor:
        """Into the subspace."""
        raise NotImplementedError

    def up(self, v: Tensor, state: State, template: Tensor) -> Tensor:
        """Back to the shape of `template`."""
        raise NotImplementedError


def _has_schedule(value: Any) -> bool:
    return callable(value) or (isinstance(value, tuple) and any(callable(v) for v in value))
