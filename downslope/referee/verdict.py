"""Verdict: which method is fastest, and whether the evidence suffices to say so.

Every pair of methods gets one of four words, by steps to the target and by time to it:

- `better` or `worse`: an exact permutation test (`separation_test`) refutes that both are alike. All pairs of a
  workload form one family (`adjust_pairs`): the chance of any wrong `better` or `worse` among them is at most the
  level, whichever of them are looked at, those with the baseline, those with the fastest, or all. In a race that
  compares with the baseline alone, those pairs are the family, with Holm's correction.
- `equivalent`: two one-sided tests (`equivalence`) refute that the ratio of the two lies outside the margin, with
  Holm's correction over the family. The chance of any wrong `equivalent` is at most the level too. Where a difference
  is certain but certainly within the margin, this is the word.
- `no evidence`: neither.

For time, a method's steps are multiplied by seconds per step, which are measured too: the ratio of the two methods'
seconds is taken at whichever end of its interval speaks against the claim, and so is the time of arrival between two
evaluations, which are further apart in seconds where steps are dearer. Of the 5% chance of error, 4% go to the test and
1% to these intervals, of all pairs together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from downslope.referee.power import PLANTED, Power
from downslope.referee.ratio import Arrivals, compare, equivalence, ratio
from downslope.referee.standing import Standing
from downslope.referee.statistics import Estimate, Test, holm, smallest_p
from downslope.referee.stepdown import Family
from downslope.referee.timing import TIMING_SHARE, ratio_interval

__all__ = ["DECIDED", "LEVEL", "MARGIN", "Comparison", "Judgement", "judge", "least_seeds"]

LEVEL = 0.05
MARGIN = 0.05
"""Differences up to this factor are called equivalent, unless the user says otherwise."""
TIMING_FLOOR = 0.03
"""Differences of seconds per step smaller than this are not counted."""

TEST = "exact two-sided permutation test on ranks (Gehan), misses tied last"
DECIDED = ("better", "worse", "equivalent")

Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One method against another, by `measure` (`steps` or `time`), from the first one's side.

    `word` is `better`, `worse`, `equivalent` or `no evidence`; `test` names the test that decided it, whose `p`, and
    `adjusted` p for looking at several pairs, are to be held against `level`. `first` is the share of pairs of runs in
    which this method's run arrived first, `ratio` how many times as long this method needs. `power` is the chance with
    which a difference of 20 % is seen by this many runs of this spread, `detectable` the smallest ratio that is seen
    with a chance of 80 %; both None where the runs do not tell their spread.
    """

    label: str
    against: str
    measure: str
    word: str
    test: str
    level: float
    p: float
    adjusted: float
    first: float
    runs: tuple[int, int]
    ratio: Estimate
    power: float | None = None
    detectable: float | None = None
    note: str = ""

    def swapped(self) -> Comparison:
        """The same comparison from the other side."""
        r, words = self.ratio, {"better": "worse", "worse": "better"}
        return replace(
            self,
            label=self.against,
            against=self.label,
            word=words.get(self.word, self.word),
            first=1 - self.first,
            runs=(self.runs[1], self.runs[0]),
            ratio=Estimate(_inverse(r.value), _inverse(r.high) or 0.0, _inverse(r.low), r.coverage),
        )


def _inverse(x: float | None) -> float | None:
    return None if not x else 1 / x


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """All comparisons of one workload: against the baseline, against the fastest, and of all pairs.

    Where `compare` is `baseline`, the baseline's are all there are. `decided` says that each method has a word other
    than `no evidence` against the fastest, or, in such a race, against the baseline; `tied` names those that have not.
    """

    measure: str
    compare: str
    fastest: str | None
    decided: bool
    against_baseline: tuple[Comparison, ...]
    against_fastest: tuple[Comparison, ...]
    pairs: tuple[Comparison, ...]
    tied: tuple[str, ...]
    level: float
    margin: float
    note: str

    @property
    def deciding(self) -> list[Comparison]:
        """The comparisons that the verdict is made of."""
        return _deciding(self.against_baseline if self.compare == "baseline" else self.against_fastest, self.measure)

    @property
    def settled(self) -> bool:
        """Whether every comparison with the fastest and with the baseline has a word by the verdict's measure."""
        ours = (*self.against_fastest, *self.against_baseline)
        return self.decided and all(c.word in DECIDED for c in ours if c.measure == self.measure)


def judge(
    standings: Sequence[Standing],
    baseline: str,
    turns: Mapping[str, Sequence[float]],
    *,
    compare: str = "pairs",
    margin: float = MARGIN,
    share: float = 1.0,
    earlier: Sequence[Comparison] = (),
    detail: bool = True,
) -> Judgement:
    """Compare the methods of one workload.

    Args:
        standings: the methods, the fastest first.
        baseline: the method that was named first.
        turns: timings by method; none to judge by steps alone.
        compare: `pairs` compares all with each other, `baseline` each method with the baseline alone.
        margin: differences up to this factor are equivalent.
        share: the part of the level that may be spent now, where the race is judged several times.
        earlier: comparisons of an earlier judgement of the same race; its words stand.
        detail: also work out ratios, power and detectable differences.
    """
    timed = all(s.label in turns for s in standings if s.tuned is not None) and bool(turns)
    pairs: list[Comparison] = []
    family = Family(tuple(s.label for s in standings), baseline if compare == "baseline" else None)
    for measure in ("steps", "time") if timed else ("steps",):
        known = turns if measure == "time" else {}
        pairs += _Measure(standings, family, measure, known, margin, share).pairs(earlier, detail)
    leader = standings[0] if standings and standings[0].hits else None
    others, measure = [s.label for s in standings], "time" if timed else "steps"
    with_baseline = tuple(_against(pairs, baseline, others))
    with_fastest = tuple(_against(pairs, leader.label, others) if leader else ())
    deciding = _deciding(with_baseline if compare == "baseline" else with_fastest, measure)
    tied = [c for c in deciding if c.word not in DECIDED]
    return Judgement(
        measure=measure,
        compare=compare,
        fastest=leader.label if leader else None,
        decided=bool(leader and deciding) and not tied,
        against_baseline=with_baseline,
        against_fastest=with_fastest,
        pairs=tuple(pairs),
        tied=tuple(c.label for c in tied),
        level=_level(measure) * share,
        margin=margin,
        note=next((c.note for c in tied if _hopeless(c, family)), ""),
    )


def _deciding(comparisons: Sequence[Comparison], measure: str) -> list[Comparison]:
    return [c for c in comparisons if c.measure == measure]


def _hopeless(c: Comparison, family: Family) -> bool:
    """Whether so few runs cannot show a difference, however large."""
    return smallest_p(*c.runs) > family.alone(c.level)


def _level(measure: str) -> float:
    return LEVEL - TIMING_SHARE if measure == "time" else LEVEL


def _against(pairs: Sequence[Comparison], label: str, others: Sequence[str]) -> list[Comparison]:
    """The comparisons with one method, from the others' side, in their order."""
    turned = [c.swapped() if c.label == label else c for c in pairs if label in (c.label, c.against)]
    return sorted(turned, key=lambda c: (c.measure, others.index(c.label)))


class _Measure:
    """All pairs that are compared on a workload, by one measure."""

    def __init__(
        self,
        standings: Sequence[Standing],
        family: Family,
        measure: str,
        turns: Mapping[str, Sequence[float]],
        margin: float,
        share: float,
    ) -> None:
        self.family, self.measure, self.turns, self.margin = family, measure, turns, margin
        self.level = _level(measure) * share
        self.coverage = 1 - _level(measure)
        self.steps = {s.label: Arrivals(s.arrivals, s.budget, s.grid) for s in standings}
        paces = {s.label: s.seconds.value for s in standings if turns and s.seconds and s.seconds.value}
        # A method that never ran has no pace: with the slowest one it was watched for as long as any other.
        self.seconds = {s.label: paces.get(s.label, max(paces.values(), default=1.0)) for s in standings}

    def pairs(self, earlier: Sequence[Comparison], detail: bool) -> list[Comparison]:
        """Every pair with its word."""
        pairs = self.family.pairs
        bounds = {pair: self._bounds(pair) for pair in pairs}
        tests = {pair: self._test(pair, bounds[pair]) for pair in pairs}
        groups = {label: runs.scaled(self.seconds[label]) for label, runs in self.steps.items()}
        until = 1.0 if detail else self.level
        different = self.family.adjust(groups, {pair: test.p for pair, test in tests.items()}, until)
        alike = [equivalence(self.steps[a], self.steps[b], self.margin, bounds[a, b]) for a, b in pairs]
        same = dict(zip(pairs, holm([each.p for each in alike]), strict=True))
        both = [c for each in earlier for c in (each, each.swapped())]
        known = {(c.label, c.against): c for c in both if c.measure == self.measure}
        found = []
        for pair, raw in zip(pairs, alike, strict=True):
            c = self._compare(pair, tests[pair], different[pair], raw.p, same[pair])
            c = replace(c, note=self._note(c, raw.possible, len(pairs)))
            if pair in known and known[pair].word in DECIDED:
                c = _standing_word(c, known[pair])
            found.append(self._detailed(c, bounds[pair]) if detail else c)
        return found

    def _bounds(self, pair: Pair) -> tuple[float, float]:
        """Bounds of the ratio of seconds per step; 1 by steps, and for a method that never ran and so never arrived."""
        if any(label not in self.turns for label in pair):
            return 1.0, 1.0
        return ratio_interval(self.turns, *pair, pairs=len(self.family.pairs), floor=TIMING_FLOOR)

    def _test(self, pair: Pair, bounds: tuple[float, float]) -> Test:
        a, b = (self.steps[label] for label in pair)
        sides = [(a.scaled(end), b) for end in bounds]
        if bounds != (1.0, 1.0):
            # Evaluations are further apart in seconds for one of them, which makes its runs seem later.
            sides += [(a.scaled(end).early(), b.early()) for end in bounds]
        found = [compare(mine, theirs) for mine, theirs in sides]
        if min(test.first for test in found) < 0.5 < max(test.first for test in found):
            return Test(p=1.0, first=0.5, runs=found[0].runs)  # which one is faster depends on what is not known
        return max(found, key=lambda test: test.p)

    def _compare(self, pair: Pair, test: Test, different: float, alike: float, same: float) -> Comparison:
        a, b = pair
        equivalent = same <= self.level
        if equivalent:
            word = "equivalent"
        elif different <= self.level:
            word = "better" if test.first > 0.5 else "worse"
        else:
            word = "no evidence"
        return Comparison(
            label=a,
            against=b,
            measure=self.measure,
            word=word,
            test=f"two one-sided exact permutation tests, margin {100 * self.margin:.3g} %" if equivalent else TEST,
            level=self.level,
            p=alike if equivalent else test.p,
            adjusted=same if equivalent else different,
            first=test.first,
            runs=test.runs,
            ratio=Estimate(None, 0.0, None, self.coverage),
        )

    def _detailed(self, c: Comparison, bounds: tuple[float, float]) -> Comparison:
        c = replace(c, ratio=ratio(self.steps[c.label], self.steps[c.against], bounds, self.coverage))
        a, b = (self.steps[x].scaled(self.seconds[x]) for x in (c.label, c.against))
        level = self.family.alone(self.level)
        seen = Power(a, b, level, timing=math.sqrt(bounds[1] / bounds[0]))
        return replace(c, power=seen.at(PLANTED), detectable=seen.detectable()) if seen.known else c

    def _note(self, c: Comparison, resolved: bool, pairs: int) -> str:
        """Why no other word was possible, if so."""
        n, m = c.runs
        level = self.family.alone(self.level)
        if c.word in DECIDED:
            return ""
        if _hopeless(c, self.family):
            which = "no evidence" if not resolved or smallest_p(n, m) / 2 * pairs > self.level else "no better or worse"
            among = f" (in a family of {len(self.steps)} methods)" if len(self.steps) > 2 else ""
            return (
                f"{which} possible at this number of seeds: the smallest p of {n} against {m} runs is "
                f"{smallest_p(n, m):.2g}, above the {100 * level:.2g} % allowed to the test{among}; it takes "
                f"{least_seeds(level)} seeds"
            )
        if not resolved:
            return (
                f"no number of seeds can show equivalence within {100 * self.margin:.3g} % here: evaluations are too "
                f"far apart{', or seconds per step too uncertain,' if self.turns else ''} for that margin"
            )
        return ""


def _standing_word(now: Comparison, before: Comparison) -> Comparison:
    """The word of an earlier look and the test that gave it, with all else that is known now."""
    note = before.note or f"decided with {before.runs[0]} seeds"
    kept = {name: getattr(before, name) for name in ("word", "test", "p", "adjusted", "level")}
    return replace(now, **kept, note=note)


def least_seeds(level: float) -> int:
    """The smallest number of seeds with which an exact test can reach the level."""
    n = 1
    while smallest_p(n, n) > level:
        n += 1
    return n
