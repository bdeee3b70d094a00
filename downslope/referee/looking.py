"""Looking: the judgement of a race on the way, and the seeds that are then not run (`downslope.referee.sequential`).

A look is a task of its own. It waits for all trials before it, and all trials after it wait for it, so it is taken by
one worker while nothing else runs; what it found is kept, so that a race that was killed goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from downslope.referee.errors import RaceError
from downslope.referee.plan import Entry, Plan, Task
from downslope.referee.sequential import LOOK, look_key
from downslope.referee.standing import Standing, standings
from downslope.referee.statistics import Estimate
from downslope.referee.store import REPORT, Store
from downslope.referee.stored import Kept
from downslope.referee.trial import Record
from downslope.referee.tuning import waits_for
from downslope.referee.verdict import Comparison, Judgement, judge

__all__ = ["Stand", "awaited", "judge_at", "look", "needed", "sequential_content", "stand"]


@dataclass(frozen=True)
class Stand:
    """How far the judging of a workload has come: by which look, over how many seeds, and what was said before.

    `share` is the part of the level that this look may spend; `settled` says that no more seeds are needed.
    """

    look: int
    seeds: int
    share: float
    settled: bool
    earlier: Sequence[Comparison] = ()


def awaited(plan: Plan, tasks: Mapping[str, Task], key: str) -> set[str]:
    """The tasks that must be over before this one may start."""
    if key == REPORT:
        return {*tasks, *plan.look_keys()}
    if key in plan.look_keys():
        seeds = plan.looks[int(key.removeprefix(LOOK)) - 1].seeds
        return {task.key for task in tasks.values() if task.phase == "tune" or task.index < seeds}
    task = tasks[key]
    passed = sum(each.seeds <= task.index for each in plan.looks) if task.phase == "seed" else 0
    return {*waits_for(plan, task), *([look_key(passed)] if passed else [])}


def look(store: Store, key: str) -> None:
    """Judge every workload at a look, keep what was found, and let go of the seeds that are not needed."""
    number = int(key.removeprefix(LOOK))
    found = store.kept(_name(number))
    if found is None:
        found = {entry.name: _judged(store, entry) for entry in store.plan.workloads}
        store.keep(_name(number), found)
    enough = {name: each["seeds"] for name, each in found.items() if each["settled"]}
    store.skip(
        [t.key for t in store.tasks.values() if t.phase == "seed" and t.index >= enough.get(t.workload, t.index + 1)]
    )


def _name(number: int) -> str:
    return f"look-{number}"


def _judged(store: Store, entry: Entry) -> dict[str, Any]:
    at = stand(store, entry.name)
    if at.settled:
        return {"seeds": at.seeds, "settled": True, "pairs": []}
    timing = store.kept(f"timing-{entry.name}") or {}
    _, judgement = judge_at(at, store.plan, store.records(), entry, timing, {}, detail=False)
    return {"seeds": at.seeds, "settled": judgement.settled, "pairs": [asdict(c) for c in judgement.pairs]}


def judge_at(
    at: Stand,
    plan: Plan,
    records: Mapping[str, Record],
    entry: Entry,
    timing: Mapping[str, Any],
    memory: Mapping[str, Any],
    *,
    detail: bool = True,
) -> tuple[list[Standing], Judgement]:
    """The methods of a workload, the fastest first, and what may be said of them, as far as the race has come."""
    ranked = standings(plan, records, entry, timing, memory, seeds=at.seeds)
    judgement = judge(
        ranked,
        plan.methods[0].label,
        timing.get("turns", {}),
        compare=plan.compare,
        margin=plan.margin,
        share=at.share,
        earlier=at.earlier,
        detail=detail,
    )
    return ranked, judgement


def stand(store: Kept, workload: str) -> Stand:
    """How far a workload has come, from the looks that were kept."""
    plan = store.plan
    earlier: Sequence[Comparison] = ()
    for number, at in enumerate(plan.looks, start=1):
        found = (store.kept(_name(number)) or {}).get(workload)
        if found is None or found["settled"]:
            return Stand(number, at.seeds, at.share, found is not None, earlier)
        earlier = [_comparison(c) for c in found["pairs"]]
    raise RaceError(
        f"{store.folder} holds more looks at {workload} than this race has; restore it from a copy, or move its folder "
        f"measured away and run the command that started the race."
    )


def needed(store: Kept) -> list[str]:
    """The trials that the results are made from: all of them, but for the seeds that were not needed."""
    enough = {}
    for entry in store.plan.workloads:
        at = stand(store, entry.name)
        enough[entry.name] = at.seeds if at.settled else store.plan.looks[-1].seeds
    return [t.key for t in store.tasks.values() if t.phase == "tune" or t.index < enough[t.workload]]


def _comparison(content: Mapping[str, Any]) -> Comparison:
    return Comparison(**{**content, "runs": tuple(content["runs"]), "ratio": Estimate(**content["ratio"])})


def sequential_content(plan: Plan, stands: Mapping[str, Stand], settled: Mapping[str, bool]) -> dict[str, Any] | None:
    """What a sequential race tells of itself: after how many seeds it looked, what it spent, and why it stopped."""
    if plan.max_seeds is None:
        return None
    spent, stopped = [], []
    for i in range(len(plan.looks)):
        spent.append(round(sum(each.share for each in plan.looks[: i + 1]), 10))
    for name, each in stands.items():
        rest = "the most allowed" if each.seeds == plan.max_seeds else "the time was spent"
        why = "decided" if settled[name] else f"{rest}, and not everything is decided"
        stopped.append(f"{name} stopped after {each.seeds} of at most {plan.max_seeds} seeds: {why}")
    return {"looks": [each.seeds for each in plan.looks], "spent": spent, "stopped": "; ".join(stopped)}
