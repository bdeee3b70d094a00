"""WSD and WSD-S: warm up, stay, decay fast; WSD-S does so again for every further budget, on one run.

    eta_t = peak (t + 1)/w                                             t < w steps taken
    eta_t = peak                                                       until the decay before the next budget B begins
    1/eta_t = (1 - s)/peak + s/eta_min,  s = (t - t_d)/(B - t_d)       from t_d on, the last `decay` share of the
                                                                       steps between the budget before and B
    WSD-S: at t = B the rate is back at the peak and training goes on from the decayed weights.

Paper: Wen, Li, Wang, Hall, Liang & Ma, Understanding Warmup-Stable-Decay Learning Rates: A River Valley Loss Landscape
Perspective, ICLR 2025, arXiv:2410.05192. WSD itself: Hu et al., MiniCPM, 2024, arXiv:2404.06395.
Memory: none. WSD needs a checkpoint of the stable phase per budget, WSD-S none.
Differs from the paper: nothing known; the decay is written from the code, the paper's text was not read (another
implementation that cites it has the same decay, its share taken of all steps so far). MiniCPM's WSD decays
exponentially, which is not here.
Differs from the authors' code: Levanter starts its warm-up at 0 (t/w), ours one step further, so no step has rate 0;
Levanter gives the first step of an inverse decay the rate of the second (a guard kept from another formula).
Reduces to: `LinearDecay` with one budget, decay=1 and shape="linear"; a constant as decay goes to 0.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import KW_ONLY

from downslope._core import Card
from downslope.schedule.schedule import Schedule, between, record, warming

__all__ = ["WSD", "WSDS"]

CARD = Card(
    key="wsd-s",
    name="WSD-S (and WSD)",
    exports=("WSDS", "WSD"),
    paper="Wen et al., Understanding Warmup-Stable-Decay Learning Rates: A River Valley Loss Landscape Perspective, "
    "ICLR 2025",
    url="https://arxiv.org/abs/2410.05192",
    year=2024,
    code="https://github.com/stanford-crfm/levanter @ 9263f81e8b45",
    formula="warm-up, peak, then 1/eta on a line from 1/peak to 1/eta_min before every budget, then the peak again",
    scope="schedule",
    state="none",
    state_values=0.0,
    defaults="eta_min a tenth of the peak, decay over 10% of a budget's own steps: Levanter's llama2_7b; warm-up off",
    tuning={"decay": ("choice", 0.05, 0.1, 0.2)},
    claim="WSD-S beats WSD and cyclic cosine in giving checkpoints for several budgets in one run, 0.1B to 1.2B "
    "parameters",
    evidence="values equal Levanter's but for the two differences in the docstring; on a noisy river valley the loss "
    "drops sharply in every decay and the stable phase makes the progress. The claim on language models is not tested "
    "here",
    status="partial: equal to the authors' code, the paper's text was not read",
    ready=False,
    aliases=("wsd",),
)

SHAPES = ("inverse", "linear", "cosine")


@record
class WSDS(Schedule):
    """Constant rate with a fast decay before every budget. For one run that gives a good model at several lengths.

    Args:
        peak: the value of the stable phases.
        budgets: total steps at which a decayed model is wanted, rising.
        warmup: steps of linear warm-up; the first has peak/warmup, the last has the peak (default 0).
        decay: share of the steps from one budget to the next that decay, in (0, 1] (default 0.1).
        eta_min: the value that a decay falls to; also the value after the last budget (default: peak/10).
        shape: of the decay: `"inverse"` (default; 1/value on a straight line), `"linear"` or `"cosine"`.

    Raises:
        ArgumentError: when a value breaks its rule, budgets do not rise, or warm-up and decay overlap.

    Example:
        >>> opt = ds.AdamW(model, lr=ds.WSDS(1e-3, budgets=(1000, 2000, 4000), warmup=100))

    Source: arXiv:2410.05192; Levanter.
    """

    peak: float
    _: KW_ONLY
    budgets: tuple[int, ...]
    warmup: int = 0
    decay: float = 0.1
    eta_min: float | None = None
    shape: str = "inverse"

    def check(self) -> None:
        _check_phases(self, "budgets", self.budgets)

    def __call__(self, step: int) -> float:
        return _phases(self, self.budgets, step)


@record
class WSD(Schedule):
    """Constant rate, then one fast decay. The stable part does not depend on `total`, so a run can be prolonged.

    Args:
        peak: the value of the stable phase.
        total: steps until the decay is over.
        warmup: steps of linear warm-up; the first has peak/warmup, the last has the peak (default 0).
        decay: share of all steps that decay, in (0, 1] (default 0.1).
        eta_min: the value at the end and after it (default: peak/10).
        shape: of the decay: `"inverse"` (default; 1/value on a straight line), `"linear"` or `"cosine"`.

    Raises:
        ArgumentError: when a value breaks its rule, or warm-up and decay overlap.

    Example:
        >>> opt = ds.AdamW(model, lr=ds.WSD(1e-3, total=1000, warmup=100))

    Source: arXiv:2404.06395, arXiv:2410.05192.
    """

    peak: float
    _: KW_ONLY
    total: int
    warmup: int = 0
    decay: float = 0.1
    eta_min: float | None = None
    shape: str = "inverse"

    def check(self) -> None:
        _check_phases(self, "total", (self.total,))

    def __call__(self, step: int) -> float:
        return _phases(self, (self.total,), step)


def _decay_steps(schedule: WSD | WSDS, steps: int) -> int:
    return max(1, int(schedule.decay * steps))


def _check_phases(schedule: WSD | WSDS, argument: str, budgets: tuple[int, ...]) -> None:
    if not isinstance(budgets, tuple) or not budgets or any(b <= a for a, b in zip(budgets, budgets[1:], strict=False)):
        schedule.refuse(argument, "at least one whole number of steps, in rising order", budgets)
    stable = budgets[0] - _decay_steps(schedule, budgets[0])
    if schedule.warmup > stable:
        schedule.refuse("warmup", f"at most {stable} steps, when the first decay begins", schedule.warmup)
    if schedule.shape not in SHAPES:
        schedule.refuse("shape", f"one of {', '.join(map(repr, SHAPES))}", schedule.shape)
    if schedule.shape == "inverse" and schedule.eta_min == 0:
        schedule.refuse("eta_min", "> 0 for the inverse shape", schedule.eta_min, 'Use shape="linear" to end at 0.')


def _phases(schedule: WSD | WSDS, budgets: tuple[int, ...], step: int) -> float:
    peak = schedule.peak
    eta_min = peak / 10 if schedule.eta_min is None else schedule.eta_min
    if step < schedule.warmup:
        return warming(peak, step, schedule.warmup)
    if step >= budgets[-1]:
        return eta_min
    at = bisect.bisect_right(budgets, step)
    start, end = (budgets[at - 1] if at else 0), budgets[at]
    decay_steps = _decay_steps(schedule, end - start)
    done = max(step - (end - decay_steps), 0) / decay_steps
    if schedule.shape == "inverse":
        return 1 / between(1 / peak, 1 / eta_min, done) if done else peak
    if schedule.shape == "cosine":
        return between(eta_min, peak, (1 + math.cos(math.pi * done)) / 2)
    return between(peak, eta_min, done)
