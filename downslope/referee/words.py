"""Words: the verdict in sentences, and numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from downslope.referee.board import duration
from downslope.referee.plan import Entry
from downslope.referee.standing import Standing
from downslope.referee.timing import TIMING_SHARE
from downslope.referee.verdict import DECIDED, Comparison, Judgement

__all__ = [
    "Place",
    "exact",
    "listing",
    "number",
    "overall_sentence",
    "percent",
    "proved_fastest",
    "seconds_text",
    "workload_sentence",
]

FEW = 4
"""So many methods without evidence are named; of more, their number is told."""


def workload_sentence(entry: Entry, standings: Sequence[Standing], judgement: Judgement) -> str:
    """The verdict on one workload in one sentence: the fastest, by what, and whether the evidence suffices."""
    goal = f"{entry.metric_name} {'≥' if entry.goal == 'max' else '≤'} {exact(entry.target)}"
    leader = standings[0]
    seeds = len(leader.arrivals)
    if all(s.broken == seeds for s in standings):
        tuned = next((s for s in standings if s.tuned is not None), None)
        cause, which = (leader.failures[0], "run") if tuned is None else (tuned.failures[-1], "judging run")
        return f"Nothing can be said of {entry.name}: every {which} broke ({cause.rstrip('.')})."
    if judgement.fastest is None:
        best = leader.best_metric
        nearest = f"; {leader.label} came nearest with {number(best)}" if best is not None else ""
        said = f"No method reached {goal} on {entry.name} within {entry.steps} steps{nearest}."
        return f"{said} Runs that all missed cannot be told apart."
    reach = _reach(leader)
    hits = f"{leader.hits} of {seeds} {'seed' if seeds == 1 else 'seeds'}"
    if len(standings) == 1:
        return (
            f"{leader.label} reached {goal} on {entry.name} in {reach} ({hits}); there was nothing to compare it with."
        )
    ahead = _ahead(leader, standings[1:], judgement)
    ours = judgement.deciding
    if judgement.compare == "baseline":
        found = f"{leader.label} was ahead to {goal} on {entry.name}: {reach} ({hits}), {ahead}."
        return f"{found} {_with_baseline(judgement)} {_strength(judgement, seeds)}"
    if judgement.decided:
        verb = "is the fastest" if proved_fastest(judgement) else "was ahead"
        found = (
            f"{leader.label} {verb} to {goal} on {entry.name}: {reach} ({hits}), {ahead}; {_findings(ours, judgement)}."
        )
        return f"{found} {_strength(judgement, seeds)}"
    if judgement.note:
        why = judgement.note
    else:
        lowest = min(c.adjusted for c in ours if c.label in judgement.tied)
        about = f"p = {number(lowest, 2)}" if len(judgement.tied) == 1 else f"smallest p = {number(lowest, 2)}"
        why = f"no evidence that it differs from {listing(judgement.tied, 'or')} ({about}){_by_steps(judgement)}"
    decided = [c for c in ours if c.label not in judgement.tied]
    also = f"; it is {_findings(decided, judgement)}" if decided else ""
    found = f"{leader.label} was ahead to {goal} on {entry.name}: {reach} ({hits}), {ahead}; but {why}{also}."
    return f"{found} {_strength(judgement, seeds)}"


def proved_fastest(judgement: Judgement) -> bool:
    """Whether the one with the best median is better than each of the others."""
    return judgement.compare == "pairs" and judgement.decided and all(c.word == "worse" for c in judgement.deciding)


def _with_baseline(judgement: Judgement) -> str:
    """What each word was said of, where each method was compared with the baseline alone."""
    ours = judgement.deciding
    said = []
    for word in DECIDED:
        found = [c for c in ours if c.word == word]
        if found:
            verb = "are" if len(found) > 1 else "is"
            what = f"equivalent to it within {percent(judgement.margin)}" if word == "equivalent" else word
            names = listing([c.label for c in found], "and")
            said.append(f"{names} {verb} {what} (p ≤ {number(max(c.adjusted for c in found), 2)})")
    rest = [c for c in ours if c.word not in DECIDED]
    if judgement.note:
        said.append(judgement.note)
    elif rest:
        whom = listing([c.label for c in rest], "and") if len(rest) <= FEW else f"the {len(rest)} others"
        whom = f"any of the {len(rest)} methods" if not said and len(rest) > FEW else whom
        said.append(f"no evidence on {whom} (smallest p = {number(min(c.adjusted for c in rest), 2)})")
    return f"Against {ours[0].against}: {'; '.join(said)}{_by_steps(judgement)}."


def _findings(decided: Sequence[Comparison], judgement: Judgement) -> str:
    """Whom the one with the best median beats, to whom it is equivalent, and who beats it where all runs count."""
    parts = []
    for word, what in (("worse", "better than"), ("equivalent", "equivalent to"), ("better", "worse than")):
        found = [c for c in decided if c.word == word]
        if not found:
            continue
        every = proved_fastest(judgement) and len(found) > 1
        whom = f"each of the {len(found)} others" if every else listing([c.label for c in found], "and")
        within = f" within {percent(judgement.margin)}" if word == "equivalent" else ""
        parts.append(f"{what} {whom}{within} (p ≤ {number(max(c.adjusted for c in found))})")
    return ", ".join(parts)


def _strength(judgement: Judgement, seeds: int) -> str:
    """Test and level, and what so many runs of this spread could have shown."""
    ours = judgement.deciding
    family = "these comparisons" if judgement.compare == "baseline" else "all pairs"
    timing = f", {percent(TIMING_SHARE)} more for seconds per step" if judgement.measure == "time" else ""
    test = f"Exact permutation tests, level {percent(judgement.level)} over {family}{timing}"
    seen = [c for c in ours if c.power is not None]
    if not seen:
        return f"{test}; the runs do not tell what difference they could have shown."
    weakest = min(seen, key=lambda c: c.power or 0.0)
    chance = percent(round(weakest.power or 0.0, 2))
    reach = (
        "no difference at all with 80 %"
        if weakest.detectable is None
        else f"one of {percent(weakest.detectable - 1)} with 80 %"
    )
    runs = f"{seeds} {'seed' if seeds == 1 else 'seeds'} each"
    return f"{test}; {runs}, at this spread, show a difference of 20 % with a chance of {chance}, {reach}."


def _by_steps(judgement: Judgement) -> str:
    """What steps alone decide where time, with the uncertainty of its measurement, does not."""
    if judgement.measure != "time":
        return ""
    said = ""
    fewer, more = "it does need fewer steps than", "fewer steps were enough for"
    ours, whats = judgement.against_fastest, (("worse", fewer), ("better", more))
    if judgement.compare == "baseline":
        ours, whats = judgement.against_baseline, (("better", more), ("worse", "more steps were needed by"))
    for word, what in whats:
        steps = [c for c in ours if c.measure == "steps" and c.word == word]
        found = [c for c in steps if c.label in judgement.tied]
        if found:
            p = number(max(c.adjusted for c in found), 2)
            said += f"; {what} {listing([c.label for c in found], 'and')} (p ≤ {p})"
    return said


def _reach(s: Standing) -> str:
    if s.steps.value is None:
        return "no more than half of its runs"
    steps = f"a median of {number(s.steps.value)} steps"
    return f"{steps}, {seconds_text(s.time.value)}" if s.time is not None and s.time.value is not None else steps


def _ahead(leader: Standing, others: Sequence[Standing], judgement: Judgement) -> str:
    runner = others[0]
    mine = leader.time if judgement.measure == "time" else leader.steps
    theirs = runner.time if judgement.measure == "time" else runner.steps
    if mine is None or theirs is None or mine.value is None or theirs.value is None or mine.value <= 0:
        return f"while {runner.label}, the next, reached it in {runner.hits} of {len(runner.arrivals)} seeds"
    by = "time" if judgement.measure == "time" else "steps"
    share = mine.value / theirs.value
    factor = "about the" if share >= 0.995 else f"{number(share, 2)} of the"
    return f"{factor} {by} of {runner.label}, the next"


class Place(NamedTuple):
    """Where a method comes over several workloads: targets reached, and the mean factor over the fastest there."""

    label: str
    targets: int
    factor: float | None


def overall_sentence(
    names: Sequence[str], placed: Sequence[Place], *, variants: int, measure: str, proved: bool
) -> str:
    """The verdict over several workloads.

    Args:
        names: the workloads that score.
        placed: the methods, the best first.
        variants: how many variants of them were raced besides.
        measure: what factors are of: `time`, `steps` or `time or steps`.
        proved: whether the first one is proved to be the fastest on each.
    """
    label, targets, factor = placed[0]
    beside = "" if not variants else " and its variants" if len(names) == 1 else " (variants held out)"
    where = f"{listing(names, 'and')}{beside}"
    if targets == 0:
        return f"Over {where}, no method reached a target in more than half of its runs."
    reached = _targets(targets, len(names))
    level = [each.label for each in placed if each[1:] == placed[0][1:]]
    if len(level) > 1:
        return f"Over {where}, {listing(level, 'and')} are level: each reached {reached}."
    mean = "" if factor is None else f" in {_times(factor, measure)} of the fastest method there (geometric mean)"
    first = f", ahead {'on each' if targets > 1 else 'there'}" if factor is not None and factor <= 1 else mean
    sentence = f"Over {where}, {label} comes first: it reached {reached}{first if len(placed) > 1 else ''}"
    if len(placed) == 1:
        return f"{sentence}."
    other, theirs, second = placed[1]
    came = f"{theirs} of {len(names)}" if theirs < len(names) else "all" if theirs > 1 else "its target too"
    sentence += f"; {other} follows ({came}{'' if second is None else f', in {_times(second, measure)}'})"
    strength = (
        "On each of them it is proved to be the fastest."
        if proved
        else "This order itself was not tested; see each verdict."
    )
    return f"{sentence}. {strength}"


def _targets(reached: int, of: int) -> str:
    if of == 1:
        return "its target"
    return f"all {of} targets" if reached == of else f"{reached} of {of} targets"


def _times(factor: float, measure: str) -> str:
    return f"the same {measure}" if number(factor) == "1" else f"{number(factor)} times the {measure}"


def listing(items: Sequence[str], word: str) -> str:
    """`a, b and c`."""
    items = list(items)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {word} {items[-1]}"


def number(x: float, digits: int = 3) -> str:
    """A number with so many significant digits, without an exponent where it can be read without."""
    if x == 0 or not math.isfinite(x):
        return "0" if x == 0 else str(x)
    x = float(f"{x:.{digits}g}") if abs(x) < 10**digits else x
    if abs(x) >= 10**digits and abs(x) < 1e7:
        return f"{x:,.0f}".replace(",", " ")
    return f"{x:.{digits}g}"


def exact(x: float) -> str:
    """A number as somebody has given it, with all its digits."""
    return short if float(short := f"{x:g}") == x else repr(float(x))


def percent(x: float) -> str:
    """`5 %`."""
    return f"{number(100 * x)} %"


def seconds_text(x: float | None) -> str:
    """Seconds in the unit that suits them."""
    if x is None:
        return "–"
    x = float(f"{x:.3g}") if x < 100 else x
    if x < 1e-3:
        return f"{x * 1e6:.3g} µs"
    if x < 1:
        return f"{x * 1e3:.3g} ms"
    return f"{x:.3g} s" if x < 120 else duration(x)
