"""Board: what people see while a race runs. A live table on a terminal, one line per finished trial elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from downslope.referee.plan import Entry, Plan, Task
from downslope.referee.store import Claim
from downslope.referee.survival import median_interval
from downslope.referee.trial import Record

__all__ = ["Board", "duration"]

REFRESH = 0.5
NARROW, WIDE = 58, 88
"""Columns of a terminal: below the first the table leaves out what runs now, from the second on it has bars."""


class _Source(Protocol):
    """What the board reads: a store."""

    @property
    def plan(self) -> Plan: ...
    @property
    def tasks(self) -> dict[str, Task]: ...
    def claims(self) -> list[Claim]: ...
    def records(self) -> dict[str, Record]: ...


class Board:
    """Shows a race; a context manager. Use `quiet` to show nothing at all."""

    def __init__(self, source: _Source, console: Console | None = None, *, quiet: bool = False) -> None:
        self._source, self._quiet = source, quiet
        self._console = console or Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._records: dict[str, Record] = {}
        self._claims: list[Claim] = []
        self._running: dict[str, tuple[int, int]] = {}
        self._note = ""
        self._shown = 0.0
        self._started, self._ran = time.monotonic(), 0.0

    def __enter__(self) -> Board:
        if not self._quiet:
            self._look()
            done, total = self._done()
            self.say(f"{total} trials, {total - done} to run; stop with Ctrl-C, the same command goes on.")
            if self._console.is_terminal:
                self._live = Live(self._drawn(), console=self._console, auto_refresh=False, transient=True)
                self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    # ------------------------------------------------------------- events

    def say(self, text: str) -> None:
        """A line for people."""
        if not self._quiet:
            self._console.print(Text(text), soft_wrap=True)

    def step(self, task: Task, step: int, budget: int) -> None:
        """A trial of this process has taken a step."""
        self._running[task.key] = (step, budget)
        self._refresh()

    def finished(self, task: Task, record: Record) -> None:
        """A trial of this process has ended."""
        self._ran += max(record.seconds, 1e-9)
        self._running.pop(task.key, None)
        if self._quiet:
            return
        self._look()
        if self._live:
            self._refresh(now=True)
        else:
            done, total = self._done()
            self.say(f"[{done}/{total}] {_line(task, record)}; {self._left()}")

    def note(self, text: str) -> None:
        """What goes on besides trials."""
        self._note = text
        if self._live:
            self._refresh(now=True)
        else:
            self.say(text)

    # ------------------------------------------------------------- drawing

    def _look(self) -> None:
        """Read from the store what all processes have done."""
        self._claims = [c for c in self._source.claims() if c.task in self._source.tasks and c.state != "skipped"]
        self._records = self._source.records()

    def _done(self) -> tuple[int, int]:
        return sum(c.state == "done" for c in self._claims), len(self._claims)

    def _refresh(self, *, now: bool = False) -> None:
        if self._live and (now or time.monotonic() - self._shown > REFRESH):
            self._shown = time.monotonic()
            self._live.update(self._drawn(), refresh=True)

    def _left(self) -> str:
        """The time left: seconds of training still to do, at the pace of this process so far."""
        if not self._ran:
            return "time left not known yet"
        means = {w.name: _mean_seconds(self._records, w.name) for w in self._source.plan.workloads}
        usual = _mean_seconds(self._records, "") or 0.0
        waiting = [c for c in self._claims if c.state != "done"]
        work = sum(means[self._source.tasks[c.task].workload] or usual for c in waiting)
        workers = max(1, len({c.owner for c in self._claims if c.state == "running"}))
        return f"about {duration(work * (time.monotonic() - self._started) / self._ran / workers)} left"

    def _drawn(self) -> RenderableType:
        done, total = self._done()
        parts = [self._note or "racing", f"{done} of {total} trials", *([self._left()] if done < total else [])]
        head = Text(" · ".join(parts), "bold", no_wrap=True)
        head.overflow = "ellipsis"
        drawn: list[RenderableType] = [head]
        plan = self._source.plan
        room = self._console.height - 3 - len(plan.workloads)
        mine = {
            w.name: [c for c in self._claims if self._source.tasks[c.task].workload == w.name] for w in plan.workloads
        }
        shown = [w.name for w in plan.workloads]
        if len(shown) * (len(plan.methods) + 1) > room:
            shown = [name for name in shown if self._runs(f"{name}/", mine[name])]
        for w in plan.workloads:
            drawn.append(self._title(w, mine[w.name]))
            if w.name in shown:
                drawn.append(self._table(w, max(4, room // len(shown) - 1)))
        return Group(*drawn)

    def _runs(self, prefix: str, claims: Sequence[Claim]) -> bool:
        """Whether a trial of a workload, or of a method on it, runs here or elsewhere."""
        elsewhere = any(c.state == "running" and c.task.startswith(prefix) for c in claims)
        return elsewhere or any(key.startswith(prefix) for key in self._running)

    def _first(self, w: Entry, count: int) -> list[str]:
        """So many of the methods, in their order: the baseline, those that run, and those with the fewest steps."""
        labels = [m.label for m in self._source.plan.methods]
        if len(labels) <= count:
            return labels
        best = dict.fromkeys(labels, math.inf)
        for key, record in self._records.items():
            workload, label, *_ = key.split("/")
            if workload == w.name and record.steps_to_target is not None:
                best[label] = min(best[label], record.steps_to_target)
        runs = {label: self._runs(f"{w.name}/{label}/", self._claims) for label in labels}
        ranked = sorted(labels, key=lambda label: (label != labels[0], not runs[label], best[label]))
        return [label for label in labels if label in ranked[:count]]

    def _title(self, w: Entry, mine: Sequence[Claim]) -> Text:
        goal = f"steps to {w.metric_name} {'≥' if w.goal == 'max' else '≤'} {w.target:.4g}, at most {w.steps}"
        count = f" {sum(c.state == 'done' for c in mine)}/{len(mine)}  "
        title = Text.assemble((w.name, "bold"), count, (goal, "dim"))
        title.no_wrap, title.overflow = True, "ellipsis"
        return title

    def _table(self, w: Entry, room: int) -> Table:
        width = self._console.width
        columns = [Column("method", max_width=max(8, width // 5)), Column("done", justify="right", min_width=5)]
        if width >= WIDE:
            columns.append(Column("", width=12))
        columns += [Column("best", justify="right"), Column("median seed", justify="right", min_width=13)]
        if width >= NARROW:
            columns.append(Column("now"))
        for column in columns:
            column.no_wrap, column.overflow = True, "ellipsis"
        table = Table(
            *columns, box=None, pad_edge=False, header_style="dim", padding=(0, 2 if width >= WIDE else 1, 0, 0)
        )
        methods = len(self._source.plan.methods)
        labels = self._first(w, methods if methods <= room else room - 1)
        for label in labels:
            table.add_row(*self._row(w, label, width))
        if len(labels) < methods:
            table.add_row(Text(f"and {methods - len(labels)} more", "dim"))
        return table

    def _row(self, w: Entry, label: str, width: int) -> Iterator[RenderableType]:
        prefix = f"{w.name}/{label}/"
        total = sum(k.startswith(prefix) for k in self._source.tasks)
        tuned = [r for k, r in self._records.items() if k.startswith(f"{prefix}tune/")]
        seeded = [r for k, r in self._records.items() if k.startswith(f"{prefix}seed/")]
        done = len(tuned) + len(seeded)
        yield Text(label)
        yield Text(f"{done}/{total}")
        if width >= WIDE:
            yield ProgressBar(total=max(total, 1), completed=done, width=12)
        yield Text(_best(tuned, w.goal))
        yield Text(_interval(seeded, w.steps))
        if width >= NARROW:
            yield Text(self._now(prefix), "cyan")

    def _now(self, prefix: str) -> str:
        mine = {k: at for k, at in self._running.items() if k.startswith(prefix)}
        if len(mine) > 1:
            return f"{len(mine)} run"
        for key, (step, budget) in mine.items():
            phase, index = key.removeprefix(prefix).split("/")
            return f"{'trial' if phase == 'tune' else 'seed'} {int(index) + 1}: {step}/{budget}"
        elsewhere = [c for c in self._claims if c.state == "running" and c.task.startswith(prefix)]
        return f"elsewhere: {elsewhere[0].step}" if elsewhere else ""


def _mean_seconds(records: dict[str, Record], workload: str) -> float | None:
    found = [r.seconds for k, r in records.items() if k.startswith(f"{workload}/" if workload else "")]
    return sum(found) / len(found) if found else None


def _best(records: Sequence[Record], goal: str) -> str:
    """The fewest steps to the target, or the best metric (in brackets) where none reached it."""
    reached = [r.steps_to_target for r in records if r.steps_to_target is not None]
    if reached:
        return str(min(reached))
    metrics = [r.best_metric for r in records if r.best_metric is not None]
    if metrics:
        return f"({max(metrics) if goal == 'max' else min(metrics):.4g})"
    return "broke" if records else "–"


def _interval(records: Sequence[Record], budget: int) -> str:
    """The median of the seeds so far with its interval, as far as so few seeds allow one."""
    if not records:
        return "–"
    reached = [r.steps_to_target is not None for r in records]
    e = median_interval([budget if r.steps_to_target is None else r.steps_to_target for r in records], reached)
    low, middle, high = ("missed" if v is None else f"{v:.0f}" for v in (e.low, e.value, e.high))
    return middle if len(records) == 1 else f"{middle} ({low}–{high})"


def _line(task: Task, record: Record) -> str:
    what = f"{task.workload} {task.label} {'tuning trial' if task.phase == 'tune' else 'seed'} {task.index + 1}"
    if record.cause is not None:
        cause = record.cause.rstrip(".")
        return f"{what}: broke at {cause}" if cause.startswith("step ") else f"{what}: {cause.removeprefix('it ')}"
    if record.steps_to_target is not None:
        return f"{what}: target at step {record.steps_to_target} ({record.seconds:.1f} s)"
    best = "nothing" if record.best_metric is None else f"{record.best_metric:.4g}"
    ended = f"missed the target in {record.steps} steps" if record.cut is None else f"cut at step {record.cut}"
    return f"{what}: {ended}, best {best} ({record.seconds:.1f} s)"


def duration(seconds: float) -> str:
    """Seconds in words: `42 s`, `3 min`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
