"""The profile of a race: its methods scored over its workloads, for results.json and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from downslope.referee.profiles import profile

__all__ = ["measured", "race_profile", "scoring"]

SOONEST = 1e-9  # what a target that is reached before the first step counts as: ratios need a time > 0


def race_profile(labels: Sequence[str], workloads: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Profile, scores and speed-ups over the first method, from the medians over seeds of a race.

    Each workload counts in what it is judged by: time to target, or steps where there is no time (`measure`). A method
    that no more than half of the seeds bring to the target has missed it. A variant of a workload that is raced too
    does not score: who misses it has missed the workload (`held_out`). In the speed-up, a miss counts
    as a run of the whole budget; a workload that both missed, or that was at its target before the first step, is left
    out (`compared` is the number of those left).
    """
    times: dict[str, dict[str, float]] = {label: {} for label in labels}
    spent: dict[str, dict[str, float]] = {label: {} for label in labels}
    for w in workloads:
        name, measure = w["name"], w["judgement"]["measure"]
        for s in w["standings"]:
            times[s["label"]][name] = _value(s[measure])
            spent[s["label"]][name] = s["budget"] * (_value(s["seconds"]) if measure == "time" else 1.0)
    bases = {w["name"]: w["workload"]["variant_of"] for w in workloads}
    held_out = {name: base for name, base in bases.items() if base in bases and bases[base] not in bases}
    soonest = {label: {w: max(t, SOONEST) for w, t in mine.items()} for label, mine in times.items()}
    found = profile(soonest, held_out=held_out).to_json()
    scored = found["workloads"]
    speedups = {
        label: _speedup(scored, times[labels[0]], times[label], spent[labels[0]], spent[label]) for label in labels
    }
    return found | {
        "speedup": {label: value for label, (value, _) in speedups.items()},
        "compared": {label: count for label, (_, count) in speedups.items()},
        "held_out": held_out,
        "measure": {w["name"]: w["judgement"]["measure"] for w in workloads},
    }


def scoring(workloads: Sequence[Mapping[str, Any]], profile: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The workloads of a race that score: variants beside their base do not."""
    return [w for w in workloads if w["name"] in profile["workloads"]]


def measured(workloads: Sequence[Mapping[str, Any]], profile: Mapping[str, Any]) -> str:
    """What the workloads that score are judged by: `time`, `steps`, or `time or steps`."""
    return " or ".join(sorted({w["judgement"]["measure"] for w in scoring(workloads, profile)}, reverse=True))


def _value(estimate: Mapping[str, Any] | None) -> float:
    value = None if estimate is None else estimate["value"]
    return math.inf if value is None else float(value)


def _speedup(
    workloads: Sequence[str],
    theirs: Mapping[str, float],
    mine: Mapping[str, float],
    their_run: Mapping[str, float],
    my_run: Mapping[str, float],
) -> tuple[float | None, int]:
    logs = []
    for w in workloads:
        a, b = min(theirs[w], their_run[w]), min(mine[w], my_run[w])
        if min(theirs[w], mine[w]) < math.inf and max(a, b) < math.inf and min(a, b) > 0:
            logs.append(math.log(a / b))
    return (math.exp(sum(logs) / len(logs)), len(logs)) if logs else (None, 0)
