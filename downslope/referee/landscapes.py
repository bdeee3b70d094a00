"""Landscapes: classical test functions of two variables, on which the path of a method can be seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from downslope._checks import nearest
from downslope.referee.errors import RaceError

__all__ = ["LANDSCAPES", "Landscape", "landscape"]


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """A function of two variables, where a path starts and what counts as arrived.

    Attributes:
        formula: the function in plain text.
        value: the function of two tensors of one shape; differentiable.
        start: where every path starts.
        minima: its global minima inside the window.
        least: the value there.
        window: what is drawn: lowest and highest x, lowest and highest y.
        tolerance: how far above `least` counts as arrived.
        noise: standard deviation of what is added to each component of the gradient, the same draws for all methods.
        steps: length of a path.
    """

    name: str
    formula: str
    value: Callable[[Tensor, Tensor], Tensor]
    start: tuple[float, float]
    minima: tuple[tuple[float, float], ...]
    window: tuple[float, float, float, float]
    least: float = 0.0
    tolerance: float = 1e-3
    noise: float = 0.0
    steps: int = 200


def _quadratic(x: Tensor, y: Tensor) -> Tensor:
    return ((x + y) ** 2 + 50 * (x - y) ** 2) / 4


def _rosenbrock(x: Tensor, y: Tensor) -> Tensor:
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def _beale(x: Tensor, y: Tensor) -> Tensor:
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def _himmelblau(x: Tensor, y: Tensor) -> Tensor:
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def _river(x: Tensor, y: Tensor) -> Tensor:
    return 20 * (y - torch.sin(x)) ** 2 + 0.05 * (x - 5) ** 2


def _saddle(x: Tensor, y: Tensor) -> Tensor:
    return x**2 / 2 - y**2 / 2 + y**4 / 4


def _rastrigin(x: Tensor, y: Tensor) -> Tensor:
    return 20 + x**2 + y**2 - 10 * (torch.cos(2 * math.pi * x) + torch.cos(2 * math.pi * y))


_ALL = (
    Landscape(
        name="quadratic",
        formula="((x + y)² + 50 (x - y)²) / 4, condition number 50, not along the axes",
        value=_quadratic,
        start=(-2.6, -0.9),
        minima=((0.0, 0.0),),
        window=(-3.0, 3.0, -2.4, 2.4),
    ),
    Landscape(
        name="rosenbrock",
        formula="(1 - x)² + 100 (y - x²)²",
        value=_rosenbrock,
        start=(-1.2, 1.0),
        minima=((1.0, 1.0),),
        window=(-2.0, 2.0, -0.9, 2.3),
        steps=400,
    ),
    Landscape(
        name="beale",
        formula="(1.5 - x + xy)² + (2.25 - x + xy²)² + (2.625 - x + xy³)²",
        value=_beale,
        start=(1.0, 1.5),
        minima=((3.0, 0.5),),
        window=(-1.0, 4.5, -1.8, 2.6),
    ),
    Landscape(
        name="himmelblau",
        formula="(x² + y - 11)² + (x + y² - 7)², four equal minima",
        value=_himmelblau,
        start=(-0.2, -1.3),
        minima=((3.0, 2.0), (-2.805118, 3.131312), (-3.779310, -3.283186), (3.584428, -1.848126)),
        window=(-5.6, 5.6, -4.5, 4.5),
    ),
    Landscape(
        name="river",
        formula="20 (y - sin x)² + 0.05 (x - 5)², steep banks, a slow river, gradients with noise (1 per component)",
        value=_river,
        start=(-4.5, 2.2),
        minima=((5.0, math.sin(5.0)),),
        window=(-5.5, 6.5, -4.0, 4.0),
        tolerance=0.05,
        noise=1.0,
    ),
    Landscape(
        name="saddle",
        formula="x²/2 - y²/2 + y⁴/4, a saddle at (0, 0), minima at (0, ±1)",
        value=_saddle,
        start=(-1.7, 0.001),
        minima=((0.0, 1.0), (0.0, -1.0)),
        window=(-2.1, 1.5, -1.44, 1.44),
        least=-0.25,
    ),
    Landscape(
        name="rastrigin",
        formula="20 + x² + y² - 10 (cos 2πx + cos 2πy), a minimum near every pair of whole numbers",
        value=_rastrigin,
        start=(-3.6, 2.6),
        minima=((0.0, 0.0),),
        window=(-4.5, 4.5, -3.6, 3.6),
    ),
)

LANDSCAPES = {each.name: each for each in _ALL}
"""The built-in landscapes by name."""


def landscape(name: str) -> Landscape:
    """The built-in landscape of that name.

    Raises:
        RaceError: if there is none; the sentence names the nearest one.
    """
    if name not in LANDSCAPES:
        guess = nearest(str(name), LANDSCAPES)
        hint = f"did you mean {guess!r}?" if guess else f"there are {', '.join(LANDSCAPES)}."
        raise RaceError(f"There is no function {name!r}; {hint}", bad_input=True)
    return LANDSCAPES[name]
