"""The plan of a race: everything that decides its outcome, fixed before the first trial and kept in `race.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from downslope.referee.errors import RaceError
from downslope.referee.files import read_json
from downslope.referee.recipe import Recipe, candidates, known_beforehand, tuples
from downslope.referee.sequential import Look, look_key, looks
from downslope.referee.trust import check_fields, check_names, check_size, check_texts

__all__ = ["COMPARE", "Entry", "Plan", "Task", "derive_seed", "plan_from", "read_plan", "task_key"]

FORMAT = 3
COMPARE = ("pairs", "baseline")
"""Which comparisons a race makes: of all pairs, or of each method with the first one."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One workload of a race, as far as the report and a later process need to know it.

    `source` is the name or file that loads it again (empty if it was given as an object); a file may move, so it is not
    compared. `digest` is the hash of the file's content. `variant_of` names the workload that this is a variant of.
    """

    name: str
    source: str
    digest: str
    metric_name: str
    goal: str
    target: float
    steps: int
    evaluate_every: int
    description: str = ""
    data: str = ""
    licence: str = ""
    target_origin: str = ""
    variant_of: str = ""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One training run: what to train, how, and from which seed.

    `hyper` is None where earlier runs decide it: in a judging run, and in a tuning trial of a sampler that learns.
    """

    key: str
    workload: str
    label: str
    phase: str  # "tune" or "seed"
    index: int
    seed: int
    hyper: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is raced, under which protocol, from which seed, by which version.

    With `max_seeds`, a race begins with `seeds` and adds more until its verdict is reached. `compare` says which
    comparisons are made: of all `pairs`, or of each method with the `baseline`, the first one, alone.
    """

    workloads: tuple[Entry, ...]
    methods: tuple[Recipe, ...]
    self_tuning: bool = False
    trials: int
    sampler: str = "quasi-random"
    pruner: str = "none"
    seeds: int
    budget: float
    seed: int
    version: str
    threads: int = field(compare=False)
    margin: float = 0.05
    max_seeds: int | None = None
    compare: str = "pairs"

    def tasks(self) -> list[Task]:
        """Every run of the race in the order in which they are best done: all methods advance together."""
        runs: list[Task] = []
        points = {m.label: self.points(m) for m in self.methods}
        for w in self.workloads:
            # Tuning seeds do not depend on the method: a method raced against itself is tuned to the same point, so
            # that the verdict on fresh seeds keeps its error rate.
            for i in range(self.trials if self.tuned_on(w.name) == w.name else 0):
                seed = derive_seed(self.seed, w.name, "tune", i)
                for m in self.methods:
                    known = {**m.fixed, **points[m.label][i]} if i < len(points[m.label]) else None
                    runs.append(_task(w, m, "tune", i, seed, known))
            for i in range(self.max_seeds or self.seeds):
                for m in self.methods:
                    seed = derive_seed(self.seed, w.name, m.label, i)
                    runs.append(_task(w, m, "seed", i, seed, None if self.trials else dict(m.fixed)))
        return runs

    def points(self, recipe: Recipe) -> list[dict[str, Any]]:
        """The tuning trials of a method that are decided beforehand: all of them, or the first for a sampler to learn
        from. Neither they nor their seeds depend on the method's label."""
        space = recipe.space or {}
        count = known_beforehand(self.sampler, self.trials, space)
        return candidates(space, count, self.seed, even=self.sampler != "random")

    @property
    def looks(self) -> list[Look]:
        """When the race is judged: once after all seeds, or in stages where `max_seeds` says until when."""
        return looks(self.seeds, self.max_seeds or self.seeds)

    def look_keys(self) -> list[str]:
        """The tasks besides the trials that judge the race on the way."""
        return [look_key(number) for number in range(1, len(self.looks))]

    def entry(self, name: str) -> Entry:
        """The workload called `name`."""
        return next(w for w in self.workloads if w.name == name)

    def recipe(self, label: str) -> Recipe:
        """The method called `label`."""
        return next(m for m in self.methods if m.label == label)

    def tuned_on(self, name: str) -> str:
        """The workload whose tuning decides the judging runs of `name`: of a variant its base, if that is raced too."""
        base = self.entry(name).variant_of
        return base if any(w.name == base for w in self.workloads) else name

    def to_json(self) -> dict[str, Any]:
        """The plan as it stands in `race.json`."""
        return {"format": FORMAT, **asdict(self)}

    def located(self, other: Plan) -> Plan:
        """This plan, with its workloads where `other`, the same race begun elsewhere, has found them."""
        sources = {w.name: w.source for w in other.workloads}
        return replace(self, workloads=tuple(replace(w, source=sources[w.name]) for w in self.workloads))

    @property
    def digest(self) -> str:
        """A short fingerprint of all that must be the same for two commands to run the same race."""
        content = {k: v for k, v in self.to_json().items() if k != "threads"}
        content["workloads"] = [{k: v for k, v in w.items() if k != "source"} for w in content["workloads"]]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]

    def difference(self, other: Plan) -> str | None:
        """In words, the first thing in which `other` is a different race, or None."""
        mine, theirs = json.loads(json.dumps(self.to_json())), json.loads(json.dumps(other.to_json()))
        names = [f.name for f in fields(self) if f.compare]
        for key in sorted(names, key=lambda name: name in ("workloads", "methods")):  # the simple words first
            if mine[key] != theirs[key] and (words := _in_words(key, mine[key], theirs[key])):
                return words
        return None


def task_key(workload: str, label: str, phase: str, index: int) -> str:
    """The name of a run in its race: of its claim, its record and its file."""
    return f"{workload}/{label}/{phase}/{index:03d}"


def _task(w: Entry, m: Recipe, phase: str, index: int, seed: int, hyper: dict[str, Any] | None) -> Task:
    key = task_key(w.name, m.label, phase, index)
    return Task(key=key, workload=w.name, label=m.label, phase=phase, index=index, seed=seed, hyper=hyper)


def derive_seed(*parts: object) -> int:
    """A seed that depends on all parts and on nothing else."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") % (2**31)


def _in_words(key: str, mine: Any, theirs: Any) -> str | None:
    if key in ("workloads", "methods"):
        name = "name" if key == "workloads" else "label"
        mine_names, their_names = [x[name] for x in mine], [x[name] for x in theirs]
        if mine_names != their_names:
            return f"{key} {', '.join(mine_names)} there and {', '.join(their_names)} here"
        for a, b in zip(mine, theirs, strict=True):
            for part in a:
                if part != "source" and a[part] != b[part]:
                    if part == "digest":
                        return f"the file of {a[name]!r} has changed since"
                    shown = f" ({_short(a[part])} there and {_short(b[part])} here)"
                    return f"{part.replace('_', ' ')} of {a[name]!r}{shown}"
        return None
    return f"{key} {_short(mine)} there and {_short(theirs)} here"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def read_plan(folder: Path) -> Plan:
    """The plan kept in a race's folder."""
    path = folder / "race.json"
    if not path.is_file():
        raise RaceError(f"{folder} holds no race (it has no race.json); name the folder of a race.", bad_input=True)
    content = read_json(path)
    try:
        return plan_from(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RaceError(
            f"{path} is not the plan of a race ({type(error).__name__}: {error}); restore it from a copy, or move it "
            f"away and run the command that started the race: stored trials are kept."
        ) from error


def plan_from(content: Mapping[str, Any]) -> Plan:
    """A plan from its JSON, which may come from a stranger.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: what is wrong with it.
    """
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']}, this version reads {FORMAT}")
    rest = {f.name: content[f.name] for f in fields(Plan) if f.name not in ("workloads", "methods")}
    known = {f.name for f in fields(Entry)}
    plan = Plan(
        workloads=tuple(Entry(**{k: v for k, v in w.items() if k in known}) for w in content["workloads"]),
        methods=tuple(
            Recipe(m["method"], m["label"], tuples(m["fixed"]), {k: tuple(tuples(v)) for k, v in m["space"].items()})
            for m in content["methods"]
        ),
        **rest,
    )
    if plan.compare not in COMPARE:
        raise ValueError(f"compare {plan.compare!r}")
    for part in (plan, *plan.workloads):
        check_fields(part)
        check_texts(part)
    check_names([*(w.name for w in plan.workloads), *(m.label for m in plan.methods)])
    check_size(len(plan.workloads), len(plan.methods), plan.trials, max(plan.seeds, plan.max_seeds or 0))
    return plan
