"""The one validator: what each hyperparameter means, what it may be, and the sentence that says otherwise.

Every refusal has the same form: which argument of which method, the rule, the value got, what to do instead.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, NoReturn

__all__ = ["GLOSSARY", "ArgumentError", "UnknownArgument", "UnknownMethod", "check_hyperparameter", "nearest", "refuse"]


class ArgumentError(ValueError):
    """An argument of a method breaks its rule."""


class UnknownArgument(TypeError):
    """A keyword that the method does not have."""


class UnknownMethod(ValueError):
    """A key that no card has."""


class Hyperparameter(NamedTuple):
    """One word of the glossary: its meaning and the rule for its value (for each value of a tuple)."""

    meaning: str
    rule: str
    holds: Callable[[float], bool]


def _positive(meaning: str) -> Hyperparameter:
    return Hyperparameter(meaning, "a finite number > 0", lambda x: x > 0)


def _non_negative(meaning: str) -> Hyperparameter:
    return Hyperparameter(meaning, "a finite number >= 0", lambda x: x >= 0)


def _decay_rate(meaning: str) -> Hyperparameter:
    return Hyperparameter(meaning, "in [0, 1)", lambda x: 0 <= x < 1)


def _fraction(meaning: str) -> Hyperparameter:
    return Hyperparameter(meaning, "in [0, 1]", lambda x: 0 <= x <= 1)


def _count(meaning: str) -> Hyperparameter:
    return Hyperparameter(meaning, "a whole number >= 1", lambda x: x >= 1 and x == int(x))


GLOSSARY: dict[str, Hyperparameter] = {
    "adamw_betas": _decay_rate("betas of AdamW for what is not a hidden weight"),
    "adamw_eps": _non_negative("eps of AdamW for what is not a hidden weight"),
    "adamw_lr": _non_negative("learning rate of what is not a hidden weight"),
    "adamw_weight_decay": _non_negative("weight decay of what is not a hidden weight"),
    "alpha": _non_negative("share, decay rate, or weight of a part"),
    "beta2": _decay_rate("decay rate of the running mean that scales the step"),
    "beta3": _decay_rate("decay rate of a third running mean"),
    "betas": _decay_rate("decay rates of the running averages"),
    "budgets": _count("total steps at which a decayed model is wanted"),
    "clamp": _non_negative("bounds of a norm"),
    "d0": _positive("first estimate of the distance to the solution"),
    "dampening": _fraction("share of the gradient kept out of the momentum buffer"),
    "decay": Hyperparameter("share of a phase that decays", "in (0, 1]", lambda x: 0 < x <= 1),
    "delta": _non_negative("threshold of a test"),
    "eps": _non_negative("small number that keeps a division finite"),
    "eta_min": _non_negative("value that a schedule falls to"),
    "f_star": Hyperparameter("smallest loss that can be reached", "a finite number", lambda _: True),
    "filter_width": _fraction("window of a filter as a share of the whole"),
    "final_lr": _non_negative("learning rate at the end"),
    "first_samples": _count("random draws in the first estimate"),
    "gamma": _non_negative("second rate of the method"),
    "init_eta": _positive("size of the first step"),
    "initial_accumulator_value": _non_negative("what the sum of squared gradients starts from"),
    "iterations": _count("rounds of an iteration"),
    "k": _count("steps between two events"),
    "lamb": _non_negative("weight of the slow part of the gradient"),
    "lr": _non_negative("learning rate"),
    "lr_decay": _non_negative("rate at which the learning rate falls with the steps"),
    "max_norm": _positive("largest norm allowed"),
    "max_ratio": _positive("largest trust ratio"),
    "max_step": _positive("largest step size"),
    "min_curvature": _positive("smallest curvature that is divided by"),
    "momentum": _decay_rate("decay rate of the momentum buffer"),
    "momentum_decay": _non_negative("rate at which the momentum grows to its final value"),
    "ns_coefficients": Hyperparameter("coefficients of the Newton-Schulz iteration", "a finite number", lambda _: True),
    "ns_steps": _count("Newton-Schulz iterations"),
    "peak": _positive("highest value of a schedule"),
    "percentile": Hyperparameter("share of the history below a threshold", "in [0, 100]", lambda x: 0 <= x <= 100),
    "power": _positive("exponent"),
    "projection_beta": _decay_rate("decay rate of the projected learning rate"),
    "rank": _count("dimension of a subspace"),
    "reference_lr": _positive("learning rate at which another one is stated"),
    "reps_rel": _positive("first movement relative to the parameters"),
    "rho": _non_negative("how much curvature divides the momentum"),
    "scale": _non_negative("factor on the update"),
    "slack_strength": _non_negative("weight of a slack variable"),
    "state_free_scale": _non_negative("factor on the update of the part without state"),
    "T_0": _count("steps of the first cycle"),
    "T_mult": _count("factor from one cycle's length to the next"),
    "tolerance": _positive("difference below which two numbers count as equal"),
    "total": _count("number of steps"),
    "trust_coefficient": _positive("size of a step relative to the weights"),
    "update_every": _count("steps from one refresh to the next"),
    "update_gap": _count("steps for which a subspace is kept"),
    "values": _fraction("multiples of the peak, one per step"),
    "warmup": Hyperparameter("steps of warm-up", "a whole number >= 0", lambda x: x >= 0 and x == int(x)),
    "wd_ratio": _fraction("share of the weight decay that scale-invariant weights get"),
    "weight_decay": _non_negative("weight decay coefficient"),
    "window": _count("number of past values kept"),
}

_building: ContextVar[str] = ContextVar("downslope_building", default="")


@contextmanager
def building(name: str) -> Iterator[None]:
    """Refusals raised inside name the method that the user asked for, not the part of it that noticed."""
    token = _building.set(_building.get() or name)
    try:
        yield
    finally:
        _building.reset(token)


def refuse(owner: str, argument: str, rule: str, got: object, instead: str = "") -> NoReturn:
    """Raise the one sentence: `owner: argument must be rule; got value.` and what to do instead, if anything."""
    advice = f" {instead}" if instead else ""
    raise ArgumentError(f"{_building.get() or owner}: {argument} must be {rule}; got {got!r}.{advice}")


def plain(value: Any) -> Any:
    """A NumPy scalar or a tensor of one element as a Python number; anything else as it is."""
    if isinstance(value, tuple | list):
        return tuple(plain(each) for each in value)
    one = hasattr(value, "item") and math.prod(getattr(value, "shape", ())) == 1
    return value.item() if one else value


def check_form(owner: str, name: str, value: Any, like: Any) -> None:
    """Check that a value is one number, or as many numbers as `like`, which stands for the hyperparameter."""
    if isinstance(like, tuple):
        if not isinstance(value, tuple | list) or len(value) != len(like):
            refuse(owner, name, f"{len(like)} numbers", value)
    elif isinstance(like, int | float) and (value is None or isinstance(value, tuple | list)):
        refuse(owner, name, "one number", value)


def check_hyperparameter(owner: str, name: str, value: Any) -> None:
    """Check a number, or a tuple of numbers, against the glossary; NaN and infinity are always refused."""
    word = GLOSSARY.get(name.rsplit(".", 1)[-1])
    if isinstance(value, tuple | list):
        for i, each in enumerate(value):
            _check_number(owner, f"{name}[{i}]", each, word)
    else:
        _check_number(owner, name, value, word)


def _check_number(owner: str, name: str, value: Any, word: Hyperparameter | None) -> None:
    rule = word.rule if word else "a finite number"
    if isinstance(value, bool) or not isinstance(value, int | float):
        refuse(owner, name, rule, value)
    if not math.isfinite(value) or (word is not None and not word.holds(value)):
        refuse(owner, name, rule, value)


def nearest(word: str, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The known word most like `word`, if any is like it at all."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return found[0] if found else None


_TORCH_ONLY = {
    "foreach": "execution= picks the implementation",
    "fused": "execution= picks the implementation",
    "capturable": "a step reads its hyperparameters on the host, so call step() outside of a CUDA graph",
    "differentiable": "differentiating through a step is not supported",
}


_SYNONYMS = {
    "beta1": "betas",
    "beta2": "betas",
    "learning_rate": "lr",
    "weight_decouple": "decoupled_weight_decay",
}


def unknown_argument(owner: str, name: str, known: Iterable[str]) -> NoReturn:
    """Raise for a keyword that `owner` does not have, with the nearest one that it has."""
    if name in _TORCH_ONLY:
        raise UnknownArgument(f"{owner}: has no argument {name!r}: {_TORCH_ONLY[name]}.")
    known, synonym = set(known), _SYNONYMS.get(name)
    guess = synonym if synonym in known else nearest(name, known)
    hint = f"did you mean {guess!r}?" if guess else f"it has {', '.join(sorted(known))}."
    raise UnknownArgument(f"{owner}: has no argument {name!r}; {hint}")


def checked_constructor(init: Callable[..., None], owner: str, options: Iterable[str]) -> Callable[..., None]:
    """Wrap a constructor: unknown keywords are refused with the nearest name, and refusals name `owner`."""
    parameters = inspect.signature(init).parameters.values()
    rest = next((str(p.annotation) for p in parameters if p.kind is p.VAR_KEYWORD), None)
    open_ended = rest is not None and "Options" not in rest  # **kwargs that go on to a constructor checked in its turn
    known = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {"self"}
    known |= set(options) if rest is not None else set()

    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        with building(type(self).__name__ if type(self).__init__ is wrapper else owner):
            for name in kwargs:
                if name not in known and not open_ended:
                    unknown_argument(_building.get(), name, known)
            init(self, *args, **kwargs)

    return wrapper
