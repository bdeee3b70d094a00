"""Results: everything a race found, as one JSON document, a table of trials, and the object that `race` returns."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from downslope.referee import report, usage
from downslope.referee.clock import STOPPED, cut_short, judged
from downslope.referee.errors import RaceError
from downslope.referee.files import guard, write_json, write_text
from downslope.referee.looking import Stand, judge_at, needed, sequential_content, stand
from downslope.referee.plan import Entry, Plan, task_key
from downslope.referee.raceprofile import measured, race_profile, scoring
from downslope.referee.standing import Standing
from downslope.referee.stored import Kept
from downslope.referee.survival import waiting_curve
from downslope.referee.timing import TIMING_SHARE
from downslope.referee.trial import Record
from downslope.referee.verdict import LEVEL, TEST, TIMING_FLOOR
from downslope.referee.words import Place, overall_sentence, proved_fastest, workload_sentence

__all__ = ["Result", "load", "write"]


@dataclass(frozen=True)
class Result:
    """What a race found.

    `content` is the document in `results.json`; the properties are its parts that are asked for most.
    """

    folder: Path
    content: dict[str, Any]

    @property
    def winner(self) -> str | None:
        """The method that comes first, or None: where no run reached a target; over several workloads, where no method
        reached one in more than half of its runs."""
        first: str | None = self.content["winner"]
        return first

    @property
    def decided(self) -> bool:
        """Whether the evidence suffices on every workload."""
        return all(w["judgement"]["decided"] for w in self.content["workloads"])

    @property
    def sentence(self) -> str:
        """The verdict."""
        text: str = self.content["verdict"]
        return text

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.folder / "report.html"

    def __str__(self) -> str:
        parts = [self.sentence]
        if len(self.content["workloads"]) > 1:
            parts += [f"  {w['verdict']}" for w in self.content["workloads"]]
        return "\n".join([*parts, f"Report: {self.report}"])


def load(store: Kept) -> Result:
    """The result of a finished race."""
    return Result(store.folder, json.loads(json.dumps(build(store), allow_nan=False)))


def write(store: Kept) -> Result:
    """Write `results.json`, `results.csv`, `report.html` and `curves.svg` into the folder of a finished race."""
    result = load(store)
    with guard(store.folder):
        write_json(store.folder / "results.json", result.content)
        write_text(store.folder / "results.csv", _table(result.content))
        report.write(store.folder, result.content)
    return result


def build(store: Kept) -> dict[str, Any]:
    """The whole document."""
    plan, records = store.plan, store.records()
    missing = sum(key not in records for key in needed(store))
    spent = store.kept(STOPPED) if missing else None
    if missing and spent is None:
        raise RaceError(
            f"the race in {store.folder} is not finished: {missing} of {len(store.tasks)} trials are still to run; "
            f"run its command again to go on."
        )
    stopped = None if spent is None else cut_short(plan, records, spent)
    found, stands = [], {}
    for entry in plan.workloads if stopped is None else judged(plan, records):
        timing, memory = (store.kept(f"{what}-{entry.name}") or {} for what in ("timing", "memory"))
        at = stand(store, entry.name)
        if stopped is not None:
            at = replace(at, seeds=min(at.seeds, stopped["seeds"][entry.name]))
        stands[entry.name] = at
        found.append(_workload(plan, records, entry, timing, memory, at))
        found[-1]["verdict"] += "" if stopped is None else f" {stopped['text']}"
    profile = race_profile([m.label for m in plan.methods], found)
    placed = _overall(plan, scoring(found, profile), profile["ratios"])
    if len(found) == 1:
        verdict, winner = found[0]["verdict"], found[0]["judgement"]["fastest"]
    else:
        verdict = _overall_verdict(found, profile, placed) + ("" if stopped is None else f" {stopped['text']}")
        winner = placed[0].label if placed[0].targets else None
    return {
        "downslope": plan.version,
        "verdict": verdict,
        "stopped": stopped,
        "winner": winner,
        "order": [place._asdict() for place in placed],
        "plan": plan.to_json(),
        "profile": profile,
        "machine": store.kept("machine") or {},
        "test": {"name": TEST, "level": LEVEL, "of it for timing": TIMING_SHARE, "timing floor": TIMING_FLOOR},
        "sequential": sequential_content(plan, stands, {w["name"]: w["judgement"]["settled"] for w in found}),
        "workloads": found,
    }


def _workload(
    plan: Plan,
    records: Mapping[str, Record],
    entry: Entry,
    timing: Mapping[str, Any],
    memory: Mapping[str, Any],
    at: Stand,
) -> dict[str, Any]:
    ranked, judgement = judge_at(at, plan, records, entry, timing, memory)
    mine = {key: r for key, r in records.items() if key.startswith(f"{entry.name}/")}
    seeds = {task_key(entry.name, m.label, "seed", index) for m in plan.methods for index in range(at.seeds)}
    return {
        "name": entry.name,
        "verdict": workload_sentence(entry, ranked, judgement) + _stages(plan, at),
        "workload": asdict(entry),
        "standings": [
            _finite(asdict(s) | {"hits": s.hits, "waiting": _waiting(s), "use": usage.code(s.method, s.tuned)})
            for s in ranked
        ],
        "judgement": _finite(asdict(judgement)) | {"settled": judgement.settled, "proved": proved_fastest(judgement)},
        "timing": dict(timing),
        "trials": [{"task": key, "judged": key in seeds, **r.to_json()} for key, r in mine.items()],
    }


def _stages(plan: Plan, at: Stand) -> str:
    """What the verdict adds in a race that was looked at several times."""
    if plan.max_seeds is None:
        return ""
    return f" It took {at.seeds} of at most {plan.max_seeds} seeds; the level is divided among {len(plan.looks)} looks."


def _waiting(s: Standing) -> list[tuple[float, float, float, float]]:
    """The share of runs not yet at the target, with its band, by step."""
    return waiting_curve([min(t, s.budget) for t in s.arrivals], [math.isfinite(t) for t in s.arrivals])


def _finite(value: Any) -> Any:
    """JSON has no infinity: a miss is null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _overall(
    plan: Plan, scored: Sequence[Mapping[str, Any]], ratios: Mapping[str, Mapping[str, float | None]]
) -> list[Place]:
    """Methods over all workloads that score: by targets reached (in most runs), then by the mean factor to the fastest.

    A target counts only if it does in the profile, where who misses a variant has missed its base (`ratios`).
    """
    placed = []
    for recipe in plan.methods:
        factors = []
        for w in scored:
            measure = w["judgement"]["measure"]
            counted = [s for s in w["standings"] if ratios[s["label"]][w["name"]] is not None]
            times = {s["label"]: s[measure]["value"] for s in counted}
            if recipe.label in times:
                best = min(times.values())
                factors.append(times[recipe.label] / best if best > 0 else 1.0)
        mean = math.exp(sum(math.log(f) for f in factors) / len(factors)) if factors else None
        placed.append(Place(recipe.label, len(factors), mean))
    order = {s["label"]: i for i, s in enumerate(scored[0]["standings"])}
    return sorted(placed, key=lambda p: (-p.targets, p.factor or 0.0, order[p.label]))


def _overall_verdict(found: Sequence[Mapping[str, Any]], profile: Mapping[str, Any], placed: Sequence[Place]) -> str:
    scored, first = scoring(found, profile), placed[0].label
    return overall_sentence(
        [w["name"] for w in scored],
        placed,
        variants=len(found) - len(scored),
        measure=measured(found, profile),
        proved=all(w["judgement"]["proved"] and w["judgement"]["fastest"] == first for w in scored),
    )


def _table(content: Mapping[str, Any]) -> str:
    """One line per trial; hyperparameters in columns of their own."""
    trials = [t for w in content["workloads"] for t in w["trials"]]
    hyper = sorted({name for t in trials for name in t["hyper"]})
    out = io.StringIO()
    writer = csv.writer(out)
    fixed = ["steps", "budget", "steps_to_target", "best_metric", "seconds", "state_bytes", "cut", "cause"]
    writer.writerow(["workload", "method", "phase", "index", "judged", "seed", *fixed, *hyper])
    for t in trials:
        workload, label, phase, index = t["task"].split("/")
        values = [t["hyper"].get(name, "") for name in hyper]
        cells = [workload, label, phase, int(index), int(t["judged"]), t["seed"], *(t[name] for name in fixed), *values]
        writer.writerow(["" if cell is None else cell for cell in cells])
    return out.getvalue()
