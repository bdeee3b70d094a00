"""Repeated steps of the compiled executor, without the walk through the rule.

Nothing of the last step is held but where its tensors were found: they are looked up anew, so parameters, gradients
and state may be replaced or moved between steps, and no memory is kept from being freed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from downslope._engine.calls import alone, together
from downslope._engine.traced import Source, Traced

if TYPE_CHECKING:
    from downslope._engine.item import Context

__all__ = ["Call", "Repeat", "Way", "form_of"]

_P, _GRAD = Source("p"), Source("grad")


class Call(NamedTuple):
    """One call of a function: its parameters, by their place in the way, flattened and in one buffer or not."""

    traced: Traced
    members: Sequence[int]
    flat: bool
    together: bool


class Way(NamedTuple):
    """Parameters that went the same way.

    `values(step)` gives what the transforms read as `h`, or None if their structure is another one now; `slots` has the
    key in the state of a parameter for each slot that is read or written.
    """

    parameters: Sequence[Tensor]
    forms: Sequence[tuple[Any, ...]]
    slots: Mapping[Source, str]
    values: Callable[[int, float], list[dict[str, Any]] | None]
    calls: Sequence[Call]


class Repeat:
    """A step in which every parameter went its way from the gradient to the new value in one function."""

    def __init__(self, groups: Sequence[dict[str, Any]], ways: Sequence[Way], sign: float, backend: str) -> None:
        self.ids = [[id(p) for p in group["params"]] for group in groups]
        self.ways, self.sign, self.backend = ways, sign, backend

    def run(self, groups: Sequence[dict[str, Any]], sign: float, context: Context) -> bool:
        """Take the step once more; False, with nothing done, where anything about it has changed."""
        state = context.state
        if sign != self.sign or [[id(p) for p in group["params"]] for group in groups] != self.ids:
            return False
        found = [_gather(way, state, context.max_lr) for way in self.ways]
        ready = [each for each in found if each is not None]
        if len(ready) < len(found):
            return False
        for way, (step, vectors, stored) in zip(self.ways, ready, strict=True):
            for call in way.calls:
                if call.together:
                    together(call.traced, self.backend, vectors[call.traced], [stored[i] for i in call.members])
                else:
                    alone(call.traced, self.backend, vectors[call.traced], stored[call.members[0]], call.flat)
            for p in way.parameters:
                state[p]["step"] = step
        return True


def _gather(
    way: Way, state: Mapping[Tensor, Any], max_lr: float
) -> tuple[int, dict[Traced, Tensor], list[dict[Source, Tensor]]] | None:
    """The number of a way's next step, the numbers that it takes and its tensors, if it can be taken once more."""
    steps, stored = set(), []
    for p, form in zip(way.parameters, way.forms, strict=True):
        tensors = _tensors(p, state, form, way.slots)
        if tensors is None:
            return None
        stored.append(tensors)
        steps.add(state[p]["step"])
    step = min(steps) + 1
    values = way.values(step, max_lr) if len(steps) == 1 else None
    if values is None:
        return None
    vectors: dict[Traced, Tensor] = {}
    for traced in {call.traced for call in way.calls}:
        numbers, hold = traced.numbers(values)
        if not hold:
            return None
        vectors[traced] = traced.vector(numbers, stored[0][_P].device)
    return step, vectors, stored


def form_of(p: Tensor, grad: Tensor, slots: Iterable[Tensor]) -> tuple[Any, ...]:
    """What must be as it was for a function to be called once more; another layout is seen to at the call."""
    return (p.shape, p.dtype, p.device, grad.dtype, *((x.dtype, x.shape) for x in slots))


def _tensors(
    p: Tensor, state: Mapping[Tensor, Any], form: tuple[Any, ...], slots: Mapping[Source, str]
) -> dict[Source, Tensor] | None:
    """The tensors of a parameter's next step, if they still have the same form."""
    grad, own = p.grad, state.get(p)
    if own is None or type(grad) is not Tensor or grad.layout is not torch.strided:
        return None
    try:
        tensors = {source: own[key] for source, key in slots.items()}
    except KeyError:
        return None
    if form_of(p, grad, tensors.values()) != form:
        return None
    tensors[_P], tensors[_GRAD] = p.detach(), grad.detach()
    return tensors
