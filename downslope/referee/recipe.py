"""Recipe: what is raced. A method with the hyperparameters that are fixed, and the space in which the rest is tuned."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from downslope.referee.errors import RaceError, refuse

__all__ = [
    "PRUNERS",
    "SAMPLERS",
    "SUPPLIED",
    "Catalogue",
    "Recipe",
    "candidates",
    "entrants",
    "known_beforehand",
    "refuse_unmet_needs",
    "rounded",
    "tuples",
]

SAMPLERS = ("quasi-random", "random", "tpe", "gp")
"""How tuning trials are placed; the first two decide all of them beforehand, the others learn on the way."""
PRUNERS = ("none", "median", "halving", "hyperband")
"""What may end a tuning trial early (see `downslope.referee.tuning`)."""
OPENING = 10
"""The most trials that a learning sampler takes from the quasi-random sequence: as many as Optuna draws at random."""

# What the trial loop can give to a method besides the gradient.
SUPPLIED = frozenset({"loss", "closure", "previous_gradient", "curvature", "hvp"})

Range = Sequence[Any]


class Catalogue(Protocol):
    """What the referee asks of the registry of methods."""

    def card(self, key: str) -> Any:
        """The card of a method; an unknown key is refused with the nearest one."""
        ...

    def make(self, key: str, params: Any, **hyper: Any) -> Any:
        """A method's optimizer for a model."""
        ...


@dataclass(frozen=True)
class Recipe:
    """A method under a name of its own.

    Args:
        method: the method's key.
        label: how it is called in the race; the key if not given.
        fixed: hyperparameters that are not tuned.
        space: search space that replaces the card's: `{name: ("log", low, high)}`, also `uniform`, `int`, `choice`.
    """

    method: str
    label: str = ""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    space: Mapping[str, Range] | None = None


def tuples(value: Any) -> Any:
    """JSON has lists where hyperparameters have tuples."""
    if isinstance(value, dict):
        return {k: tuples(v) for k, v in value.items()}
    return tuple(tuples(v) for v in value) if isinstance(value, list | tuple) else value


def entrants(methods: Sequence[str | Recipe], catalogue: Catalogue, *, tuned: bool) -> list[Recipe]:
    """The recipes of a race, each with a label of its own and its space read from the card.

    A method named twice races against itself, under `name` and `name (2)`.
    """
    if isinstance(methods, str) or not isinstance(methods, Sequence):
        hint = f"write [{methods!r}]." if isinstance(methods, str) else f"got {methods!r}."
        refuse(f"methods must be a list of keys of methods, or of Recipes; {hint}")
    if not methods:
        refuse("methods must name at least one method; got none.")
    found: list[Recipe] = []
    for item in methods:
        recipe = Recipe(item) if isinstance(item, str) else item
        if not (isinstance(recipe, Recipe) and isinstance(recipe.method, str) and isinstance(recipe.label, str)):
            refuse(f"methods must hold keys of methods, such as 'adamw', or Recipes of such keys; got {item!r}.")
        card = catalogue.card(recipe.method)
        if not card.ready:
            raise RaceError(
                f"{card.key!r} cannot be raced by itself: it is a part that goes into a chain; name a method that "
                f"`downslope find` does not mark as a part.",
                bad_input=True,
            )
        space = tuples(dict(recipe.space if recipe.space is not None else card.tuning or {}))
        space = {k: v for k, v in space.items() if k not in recipe.fixed} if tuned else {}
        _check_fixed(card.key, recipe.fixed)
        _check_space(card.key, space)
        label = recipe.label or card.key
        if set(label) & set("/\\\n"):
            refuse(f"a label must be a text without slashes; got {label!r}.")
        if label == "tune":
            refuse("a label must not be 'tune': seeds are derived from it, and tuning trials have that name.")
        taken = {r.label for r in found}
        number = 2
        base = label
        while label in taken:
            label, number = f"{base} ({number})", number + 1
        found.append(Recipe(card.key, label, tuples(dict(recipe.fixed)), space))
    return found


def refuse_unmet_needs(recipes: Sequence[Recipe], catalogue: Catalogue, workload: str) -> None:
    """Refuse, before anything runs, a method that needs what the loop of a workload cannot give."""
    for recipe in recipes:
        missing = sorted(set(catalogue.card(recipe.method).needs) - SUPPLIED)
        if missing:
            raise RaceError(
                f"method {recipe.method!r} needs {' and '.join(missing)}, which workload {workload!r} does not supply; "
                f"leave it out of --methods.",
                bad_input=True,
            )


def _check_fixed(key: str, fixed: Mapping[str, Any]) -> None:
    for name, value in fixed.items():
        try:
            same = tuples(json.loads(json.dumps(value))) == tuples(value)
        except (TypeError, ValueError):
            same = False
        if not same:
            refuse(
                f"{key}: a race keeps its hyperparameters as JSON, so {name} must be a number, a text, True, False, "
                f"None, or a list of such; got {value!r}."
            )


def _check_space(key: str, space: Mapping[str, Range]) -> None:
    for name, given in space.items():
        parts: list[Any] = list(given) if isinstance(given, Sequence) and given else [given]
        kind, *values = parts
        _check_fixed(key, {name: [kind, *values]})
        ordered = len(values) == 2 and all(isinstance(v, int | float) for v in values) and values[0] <= values[1]
        good = {
            "log": ordered and values[0] > 0,
            "uniform": ordered,
            "int": ordered,
            "choice": len(values) > 0,
        }.get(str(kind), False)
        if not good:
            raise RaceError(
                f"{key}: the search space of {name} must be ('log', low, high), ('uniform', low, high), "
                f"('int', low, high) or ('choice', a, b, ...); got {(kind, *values)!r}.",
                bad_input=True,
            )


def known_beforehand(sampler: str, trials: int, space: Mapping[str, Range]) -> int:
    """How many of a method's tuning trials are decided before the race: of a learning sampler, the first half."""
    learns = sampler in ("tpe", "gp") and bool(space)
    return min((trials + 1) // 2, OPENING) if learns else trials


def candidates(space: Mapping[str, Range], count: int, seed: int, *, even: bool = True) -> list[dict[str, Any]]:
    """`count` points of a search space: of a scrambled Sobol sequence, or independent ones if not `even`.

    They depend on the space and the seed alone, so every worker and every resumed race sees the same ones, in whatever
    order they are run. (Optuna's quasi-random sampler numbers its points in the order of completion, takes its first
    one at random and needs SciPy.) Two methods with the same space get the same points.
    """
    import torch
    from torch.quasirandom import SobolEngine

    if not space:
        return [{} for _ in range(count)]
    names = sorted(space)
    if even:
        points = SobolEngine(len(names), scramble=True, seed=seed).draw(count, dtype=torch.float64)
    else:
        generator = torch.Generator().manual_seed(seed)
        points = torch.rand(count, len(names), dtype=torch.float64, generator=generator)
    return [{name: _place(space[name], u) for name, u in zip(names, p, strict=True)} for p in points.tolist()]


def _place(spread: Range, u: float) -> Any:
    """The value at `u` in [0, 1) of one range."""
    kind, *values = spread
    if kind == "choice":
        return values[min(int(u * len(values)), len(values) - 1)]
    low, high = values
    if kind == "int":
        return min(low + int(u * (high - low + 1)), high)
    return rounded(low * (high / low) ** u if kind == "log" else low + u * (high - low), low, high)


def rounded(value: float, low: float, high: float) -> float:
    """Three digits are enough, and can be pasted; never outside of its range."""
    return min(max(float(f"{value:.3g}"), low), high)
