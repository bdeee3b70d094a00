"""Refined schedule: the next run's schedule, computed from the gradient norms of the last run.

    G^  = median filter of the norms G_1 … G_T, over a window of tau T
    w_t = G^_t^-2 (SGD, l2 norms)   or   G^_t^-1 (Adam, l1 norms)
    eta_t = w_t (w_{t+1} + … + w_T), divided by its largest value

Paper: Defazio, Cutkosky, Mehta & Mishchenko, When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement,
arXiv:2310.07831, algorithm 1 and the Adam variant after it. Large norms at the start give a warm-up by themselves; none
is imposed. The last step has rate 0, as the sum behind it is empty.
Memory: one number per step of the schedule.
Differs from the paper: nothing known; the filter is padded as in the authors' README (nearest value before, mirror
after).
Differs from the authors' code: visual.py takes 10 % of 10,000 points as the window whatever the length of the run, cuts
two norms at either end and drops infinite ones (its data came from a logging service); here the window is a share of
the run and a norm that is zero or not finite after filtering is refused, where the authors' code gives NaN.
Reduces to: linear decay over T - 1 steps when all norms are equal.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence

from downslope._checks import check_hyperparameter, refuse
from downslope._core import Card
from downslope.schedule.schedule import Schedule, record

__all__ = ["Refined", "refine"]

CARD = Card(
    key="refined-schedule",
    name="Schedule refinement",
    exports=("refine", "Refined"),
    paper="Defazio et al., When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement, 2023",
    url="https://arxiv.org/abs/2310.07831",
    year=2023,
    code="https://github.com/facebookresearch/adaptive_scheduling @ 37a8a9ba0570",
    formula="eta_t = w_t sum_{p>t} w_p / max, w_t = G^_t^-2 (SGD) or G^_t^-1 (Adam, l1 norms), G^ = median-filtered "
    "norms",
    scope="schedule",
    state="one number per step",
    state_values=0.0,
    defaults="filter_width 0.1 and power 2: the authors' for SGD",
    tuning={"filter_width": ("choice", 0.05, 0.1, 0.2)},
    claim="further gains over linear decay, with warm-up and rapid final annealing arising by themselves",
    evidence="values equal the authors' code; equal norms give linear decay; large early norms give a warm-up. The "
    "gain over linear decay on networks is not tested here",
    status="proved",
    ready=False,
)


@record
class Refined(Schedule):
    """A schedule given by one multiple of the peak per step; after the last step it stays at the last one.

    Args:
        peak: the highest value.
        values: multiples of the peak, one per step, from 0 to 1.

    Raises:
        ArgumentError: when there are none or one lies outside of [0, 1].

    Example:
        >>> ds.Refined(0.1, (0.5, 1.0, 0.25))(2)
        0.025

    Source: arXiv:2310.07831.
    """

    peak: float
    values: tuple[float, ...]

    def check(self) -> None:
        if not isinstance(self.values, tuple) or not self.values:
            self.refuse("values", "a tuple with at least one number", self.values)

    def __call__(self, step: int) -> float:
        return self.peak * self.values[min(step, len(self.values) - 1)]


def refine(
    grad_norms: Iterable[float],
    *,
    peak: float = 1.0,
    power: float = 2.0,
    filter_width: float = 0.1,
    total: int | None = None,
) -> Refined:
    """Compute the schedule for the next run from the gradient norms of a run of the same kind.

    Args:
        grad_norms: one norm of the whole gradient per step: l2 norms for SGD with power=2, l1 norms for Adam with
            power=1.
        peak: highest value of the schedule (default 1).
        power: 2 for SGD, 1 for Adam (default 2).
        filter_width: tau, the window of the median filter as a share of the run, in [0, 1] (default 0.1; 0: no filter).
        total: steps of the next run (default: as many as there are norms); filtered norms are interpolated.

    Raises:
        ArgumentError: when a value breaks its rule, there are fewer than two norms, or a filtered norm is zero or not
            finite.

    Example:
        >>> ds.refine([4.0, 2.0, 1.0, 1.0], filter_width=0.0)(0)
        0.140625

    Source: arXiv:2310.07831, algorithm 1.
    """
    for name, value in {"peak": peak, "power": power, "filter_width": filter_width, "total": total}.items():
        if value is not None:
            check_hyperparameter("refine", name, value)
    norms = [float(g) for g in grad_norms]
    if min(len(norms), total or 2) < 2:
        refuse("refine", "grad_norms and total", "at least two steps", min(len(norms), total or 2))
    smooth = _interpolated(_median_filter(norms, 2 * (int(filter_width * len(norms)) // 2) + 1), total)
    for t, g in enumerate(smooth):
        if not (math.isfinite(g) and g > 0):
            refuse("refine", f"the filtered gradient norm of step {t}", "a finite number > 0", g, "Widen filter_width.")
    largest = max(smooth)
    weights = [(g / largest) ** -power for g in smooth]
    values, tail = [0.0] * len(weights), 0.0
    for t in reversed(range(len(weights))):
        values[t], tail = weights[t] * tail, tail + weights[t]
    highest = max(values)
    return Refined(peak, tuple(v / highest for v in values))


def _median_filter(values: Sequence[float], width: int) -> list[float]:
    """Median over a centred window of odd width; before the start the first value repeats, after the end it mirrors."""
    half, n = width // 2, len(values)
    padded = [values[0]] * half + list(values) + [values[n - 2 - i] for i in range(half)]
    window = sorted(padded[:width])
    out = [window[half]]
    for old, new in zip(padded, padded[width:], strict=False):
        window.pop(bisect.bisect_left(window, old))
        bisect.insort(window, new)
        out.append(window[half])
    return out


def _interpolated(values: list[float], total: int | None) -> list[float]:
    """The values at `total` places that are spread evenly from the first to the last."""
    if total is None or total == len(values):
        return values
    out = []
    for i in range(int(total)):
        place = i * (len(values) - 1) / (total - 1)
        left = min(int(place), len(values) - 2)
        out.append(values[left] + (place - left) * (values[left + 1] - values[left]))
    return out
