"""Storage of state: which slot of which parameter is kept in which form, and how it gets in and out of the state.

| form | entries for the slot `exp_avg` |
|---|---|
| `"float32"` | `exp_avg` in the precision of the parameter, float32 where that is lower |
| `"bfloat16"` | `exp_avg` as bfloat16, stochastically rounded at every store |
| `"8bit"`, `"4bit"` | `exp_avg`, uint8 codes, and `exp_avg.scale`, float32 (see `codecs`) |

Statistics of gradients take the form asked for: running means, momenta, bases of subspaces, whatever has the size of a
parameter. Always in full precision stay numbers, integers and slots with a dtype of their own. Unless a function
decides, so do all slots of an embedding, of a parameter with fewer than 4096 elements, and slots that are that small
themselves (the bounds of the 8-bit optimizers). Copies of the parameter (slow weights, averages, starting points) are
no statistics and stay too, unless they are named. The decision never looks at a shard: it goes by the whole parameter.
"""

from __future__ import annotations

import functools
import itertools
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from downslope._checks import ArgumentError, nearest, refuse
from downslope._engine.codecs import Codec, stochastic_rounding
from downslope._engine.sharded import entire

if TYPE_CHECKING:
    from downslope._core.plan import Node
    from downslope._core.roles import ParamInfo
    from downslope._core.transform import Slot

__all__ = [
    "SCALE",
    "SMALLEST",
    "Form",
    "Place",
    "StateDtype",
    "Storage",
    "check_saved",
    "codec",
    "get",
    "held",
    "in_words",
    "places",
    "put",
    "rounding_key",
]

Form = Literal["float32", "bfloat16", "8bit", "4bit"]
One = Form | torch.dtype
StateDtype = One | Mapping[str, One] | Callable[["ParamInfo"], One | Mapping[str, One]]
"""What `state_dtype=` takes; see `Options`."""

SCALE = ".scale"
"""The scales of a slot stand under its name with this ending."""
SMALLEST = 4096
"""Tensors with fewer elements stay in full precision."""

_TOO_SMALL = f"fewer than {SMALLEST} elements"
_FORMS: Mapping[object, Form] = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "8bit": "8bit",
    "4bit": "4bit",
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
}
_RULE = "'float32', 'bfloat16', '8bit' or '4bit'"


@functools.cache
def codec(form: str, nonnegative: bool) -> Codec:
    """The codec of a low-bit form."""
    return Codec(8 if form == "8bit" else 4, signed=not nonnegative)


class Storage:
    """The forms in which an optimizer keeps its state.

    Args:
        owner: the name of the optimizer, for refusals.
        state_dtype: as `Options` has it.
        slots: the names that slots have in `optimizer.state[p]`.

    Raises:
        ArgumentError: for a form or a slot that does not exist.
    """

    def __init__(
        self, owner: str = "Optimizer", state_dtype: StateDtype = "float32", slots: Iterable[str] = ()
    ) -> None:
        self._owner, self._slots = owner, tuple(slots)
        self._decide = state_dtype if callable(state_dtype) else None
        self._asked = "float32" if callable(state_dtype) else self._checked("state_dtype", state_dtype)
        self._chosen: dict[ParamInfo, Form | dict[str, Form]] = {}
        self.plain = self._asked == "float32" and self._decide is None

    def _checked(self, argument: str, asked: Any) -> Form | dict[str, Form]:
        if isinstance(asked, Mapping):
            for name, each in asked.items():
                if name not in self._slots:
                    guess = nearest(str(name), self._slots)
                    hint = f"Did you mean {guess!r}?" if guess else ""
                    refuse(self._owner, argument, f"given for slots out of {', '.join(self._slots)}", name, hint)
                if _form(each) is None:
                    refuse(self._owner, f"{argument}[{name!r}]", _RULE, each)
            return {name: _FORMS[each] for name, each in asked.items()}
        form = _form(asked)
        if form is None:
            what = " of a parameter" if argument != "state_dtype" else ", a dict of these by slot, or a function"
            refuse(self._owner, argument, _RULE + what, asked)
        return form

    def admit(self, info: ParamInfo) -> None:
        """Decide for a parameter, once; refuses what a function says of it that is no form."""
        if self._decide is not None and info not in self._chosen:
            self._chosen[info] = self._checked(f"state_dtype({info.label})", self._decide(info))

    def form(self, info: ParamInfo, key: str, slot: Slot, shape: tuple[int, ...]) -> tuple[Form, str]:
        """The form of a slot with a shape, and why it is not the one asked for, if so."""
        self.admit(info)
        chosen = self._chosen.get(info, self._asked)
        form = chosen.get(key, "float32") if isinstance(chosen, dict) else chosen
        if form == "float32":
            return form, ""
        if slot.dtype != "param" or slot.shape == "scalar" or not shape or 0 in shape:
            return "float32", "a number, or of a dtype of its own"
        if slot.init == "param" and not isinstance(chosen, dict):
            return "float32", "a copy of the parameter"
        if self._decide is None:
            if info.role == "embedding":
                return "float32", "an embedding"
            if math.prod(info.shape) < SMALLEST or math.prod(shape) < SMALLEST:
                return "float32", _TOO_SMALL
        return form, ""


def _form(asked: Any) -> Form | None:
    return _FORMS.get(asked) if isinstance(asked, str | torch.dtype) else None


def rounding_key(seed: int, state: Mapping[str, Any], info: ParamInfo, key: str) -> int:
    """What the stochastic rounding of a slot at the coming step of a parameter with this state depends on.

    The empty key stands for the parameter itself.
    """
    return zlib.crc32(f"{seed}/{state.get('step', 0) + 1}/{info.label}/{key}".encode())


def put(
    state: MutableMapping[str, Any], key: str, slot: Slot, form: Form, value: Tensor, draw: int, start: int
) -> None:
    """Store the value of a slot in a form; `draw` and `start` are those of `stochastic_rounding`."""
    if form == "float32":
        state[key] = value
    elif form == "bfloat16":
        state[key] = stochastic_rounding(value, draw, start)
    else:
        state[key], state[key + SCALE] = codec(form, slot.nonnegative).encode(value)


def get(
    state: Mapping[str, Any], key: str, slot: Slot, form: Form, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """The value of a slot in the precision of the computation."""
    stored: Tensor = state[key]
    if form == "float32":
        return stored
    if form == "bfloat16":
        return stored.to(dtype)
    return codec(form, slot.nonnegative).decode(stored, state[key + SCALE], shape).to(dtype)


@dataclass(frozen=True)
class Place:
    """Where and how one slot of one parameter is stored; the shape is None where it depends on a subspace."""

    key: str
    slot: Slot
    shape: tuple[int, ...] | None
    form: Form
    why: str

    def entries(self) -> dict[str, tuple[int, ...]]:
        """The shapes of what the slot has in `optimizer.state[p]`."""
        assert self.shape is not None
        if self.form in ("float32", "bfloat16"):
            return {self.key: self.shape}
        coding = codec(self.form, self.slot.nonnegative)
        return {self.key: coding.code_shape(self.shape), self.key + SCALE: coding.scale_shape(self.shape)}


def places(plan: Node, route: tuple[str, ...], group: dict[str, Any], info: ParamInfo, p: Tensor) -> Iterator[Place]:
    """The slots that a parameter has on its route."""
    shape = (*p.shape, 2) if p.is_complex() else tuple(p.shape)
    like = torch.empty(shape, device="meta")
    for node in plan.on(route):
        transform = node.for_group(group)
        for slot in transform.kept() if node.takes(info) else ():
            key, own = node.slots[slot.name], None if node.in_subspace else slot.shape_for(transform, like)
            form, why = node.storage.form(info, key, slot, shape if own is None else own)
            yield Place(key, slot, own, form, why)


def held(found: Iterable[Place], state: Mapping[str, Any], key: str, dtype: torch.dtype) -> Tensor | None:
    """The value of a slot of a parameter, None if there is none yet."""
    for place in found:
        if place.key == key and key in state and place.shape is not None:
            if place.form in ("8bit", "4bit"):
                state = {k: entire(v) for k, v in state.items() if k.removesuffix(SCALE) == key}
            return get(state, key, place.slot, place.form, place.shape, dtype)
    return None


def in_words(found: Iterable[Place], state: Mapping[str, Any], dtype: torch.dtype) -> str:
    """How the state of a parameter of a dtype is stored, as its entries tell; before they are made, as was decided.

    What lies in a subspace is decided when it is made.
    """
    told = []
    for place in found:
        why, form = place.why, str(place.form)
        if place.key in state and (form == "float32" or not _holds(state, place.key, form)):
            form, why = held_form(state, place.key), why if form == "float32" else _TOO_SMALL
        elif place.key not in state and place.shape is None:
            continue
        elif form == "float32":
            own = torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32
            form = _name(own if place.slot.dtype == "param" else place.slot.dtype)
        told.append((place.key, form, why))
    words = []
    for why, each in itertools.groupby(told, lambda one: one[2]):
        words.append(", ".join(f"{key} {form}" for key, form, _ in each) + (f" ({why})" if why else ""))
    return "; ".join(words)


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def held_form(state: Mapping[str, Any], key: str) -> str:
    """The form in which a state holds a slot, as its entries tell."""
    value, scale = state[key], state.get(key + SCALE)
    if scale is None:
        return _name(value.dtype)
    return "8bit" if _holds(state, key, "8bit") else "4bit"


def check_saved(owner: str, info: ParamInfo, found: Iterable[Place], saved: Mapping[str, Any]) -> None:
    """Refuse a saved state that is stored in another form than the one it would have here."""
    for place in found:
        value = saved.get(place.key)
        if not isinstance(value, Tensor):
            continue
        small = place.shape is None and value.numel() < SMALLEST  # in a subspace; a function may decide otherwise
        if not _holds(saved, place.key, place.form) and not (small and _holds(saved, place.key, "float32")):
            raise ArgumentError(
                f"{owner}: the saved {place.key} of {info.label} is stored as {held_form(saved, place.key)}, here "
                f"it is {place.form}; give state_dtype as in the run that was saved."
            )


def _holds(state: Mapping[str, Any], key: str, form: str) -> bool:
    """Whether the entries of a slot look like a form (a few bytes of codes look like both, 8 and 4 bits)."""
    value, scale = state[key], state.get(key + SCALE)
    if form in ("float32", "bfloat16"):
        return scale is None and value.dtype != torch.uint8 and (value.dtype == torch.bfloat16) == (form == "bfloat16")
    if scale is None or value.dtype != torch.uint8:
        return False
    block = codec(form, False).block
    if form == "8bit":
        return bool(scale.numel() == -(-value.numel() // block))
    return value.dim() == 1 and scale.numel() in (-(-2 * value.numel() // block), -(-(2 * value.numel() - 1) // block))
