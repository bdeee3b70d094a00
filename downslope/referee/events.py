"""Events: what happens in a race, told to whoever listens while it happens.

An event is a dict that JSON can hold. Each has `event` (its name), `time` (seconds since 1970), and:

| event | more keys |
|---|---|
| `race_started` | `folder`, `name`, `workloads` (name, metric_name, goal, target, steps), `methods`, `trials`, `seeds`, `done`, `total` |
| `trial_started` | the trial's keys, `seed`, `hyper` |
| `point` | the trial's keys, `step`, `loss` (the mean since the last point; null at step 0), `metric`, `seconds` |
| `trial_finished` | the trial's keys, `seed`, `hyper`, `steps`, `steps_to_target`, `best_metric`, `seconds`, `cut`, `cause`, `curve` |
| `estimate` | `trials`, `seconds` (at most, for all of them), `text` |
| `note` | `text`: what goes on besides trials |
| `verdict` | `verdict`, `winner`, `decided`, `report`, `standings` (workload, method, hits, runs, steps, time, tuned) |
| `race_stopped` | `reason`, instead of a verdict: an error's sentence, or `KeyboardInterrupt` |

The trial's keys are `trial` (`workload/method/phase/index`), `workload`, `method`, `phase` (`tune` or `seed`) and
`index`. A `curve` is a list of points (step, loss, metric, seconds). A resumed race does not repeat what an earlier
process told.
"""  # noqa: E501 (rows of a table)

from __future__ import annotations

import queue
import re
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from downslope.referee.plan import Task
    from downslope.referee.results import Result
    from downslope.referee.store import Store
    from downslope.referee.trial import Point, Record

__all__ = ["Event", "Events", "Listener"]

Event = dict[str, Any]
Listener = Callable[[Event], None]
"""Called with every event, in a thread of its own; its `close()`, where it has one, is called at the end."""

ROOM = 20_000
"""Events that may wait for a listener before it is given up."""
PATIENCE = 30.0
"""Seconds that the end of a race waits for listeners."""


class Events:
    """Tells listeners what happens, in order.

    Each listener has a thread of its own, so a slow one does not hold up the race; one that raises, or cannot keep up,
    is told nothing more, and `say` is told so in one line.
    """

    def __init__(self, listeners: Sequence[Listener], say: Callable[[str], None] = warnings.warn) -> None:
        self._lanes = [_Lane(listener, say) for listener in listeners]

    def __enter__(self) -> Events:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *trace: object) -> None:
        if error is not None:
            self.emit("race_stopped", reason=str(error) or type(error).__name__)
        self.close(PATIENCE if kind is None else PATIENCE / 10)

    def close(self, patience: float = PATIENCE) -> None:
        """Wait until all is told, for at most `patience` seconds, and let the listeners go."""
        for lane in self._lanes:
            lane.put(None)
        until = time.monotonic() + patience
        for lane in self._lanes:
            lane.join(until - time.monotonic())
        self._lanes = []

    def settle(self, patience: float = PATIENCE) -> None:
        """Wait until all is told, so that no listener works while time is measured."""
        until = time.monotonic() + patience
        for lane in self._lanes:
            lane.settle(until)

    def emit(self, event: str, **facts: Any) -> None:
        """Tell one event."""
        if self._lanes:
            content = {"event": event, "time": round(time.time(), 3), **facts}
            for lane in self._lanes:
                lane.put(content)

    # ------------------------------------------------------------- the events of a race

    def race_started(self, store: Store) -> None:
        """A process has opened the race's folder."""
        plan = store.plan
        self.emit(
            "race_started",
            folder=str(store.folder),
            name=store.folder.resolve().name,
            workloads=[
                {k: getattr(w, k) for k in ("name", "metric_name", "goal", "target", "steps")} for w in plan.workloads
            ],
            methods=[m.label for m in plan.methods],
            trials=plan.trials,
            seeds=plan.seeds,
            done=sum(c.state == "done" for c in store.claims() if c.task in store.tasks),
            total=len(store.tasks),
        )

    def trial_started(self, task: Task, hyper: Mapping[str, Any]) -> None:
        """A trial of this process begins."""
        self.emit("trial_started", **_keys(task), seed=task.seed, hyper=dict(hyper))

    def point(self, task: Task, point: Point) -> None:
        """A running trial was evaluated."""
        self.emit("point", **_keys(task), **asdict(point))

    def trial_finished(self, task: Task, record: Record) -> None:
        """A trial of this process has ended, or was not run (`cause` says why)."""
        facts = record.to_json()
        kept = ("seed", "hyper", "steps", "steps_to_target", "best_metric", "seconds", "cut", "cause")
        curve = list(facts["curve"])
        self.emit("trial_finished", **_keys(task), **{name: facts[name] for name in kept}, curve=curve)

    def note(self, text: str) -> None:
        """What goes on besides trials."""
        self.emit("note", text=text)

    def verdict(self, result: Result) -> None:
        """The race is over."""
        standings = [
            {
                "workload": w["name"],
                "method": s["label"],
                "runs": len(s["arrivals"]),
                **{k: s[k] for k in ("hits", "steps", "time", "tuned")},
            }
            for w in result.content["workloads"]
            for s in w["standings"]
        ]
        self.emit(
            "verdict",
            verdict=result.sentence,
            winner=result.winner,
            decided=result.decided,
            report=str(result.report),
            standings=standings,
        )


def _keys(task: Task) -> dict[str, Any]:
    return {
        "trial": task.key,
        "workload": task.workload,
        "method": task.label,
        "phase": task.phase,
        "index": task.index,
    }


class _Lane:
    """One listener with its thread and the events that wait for it; None is the last of them."""

    def __init__(self, listener: Listener, say: Callable[[str], None]) -> None:
        self._listener, self._say = listener, say
        self._name = str(getattr(listener, "name", None) or getattr(listener, "__name__", type(listener).__name__))
        self._waiting: queue.Queue[Event | None] = queue.Queue()
        self._gone = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"downslope logger {self._name}", daemon=True)
        self._thread.start()

    def put(self, event: Event | None) -> None:
        if self._waiting.qsize() >= ROOM and not self._gone.is_set():
            self._give_up(f"cannot keep up ({ROOM} events wait for it)")
        if event is None or not self._gone.is_set():
            self._waiting.put(event)

    def settle(self, until: float) -> None:
        told = threading.Event()
        self._waiting.put({"event": "", "told": told})
        told.wait(max(0.0, until - time.monotonic()))

    def join(self, patience: float) -> None:
        self._thread.join(max(0.0, patience))
        if self._thread.is_alive() and not self._gone.is_set():
            self._give_up(f"did not finish in time ({self._waiting.qsize()} events wait for it)")

    def _work(self) -> None:
        while (event := self._waiting.get()) is not None:
            if "told" in event:
                event["told"].set()
            elif not self._gone.is_set():
                self._attempt(lambda event=event: self._listener(event))  # type: ignore[misc]
        close = getattr(self._listener, "close", None)
        if close is not None and not self._gone.is_set():
            self._attempt(close)

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            reason = re.sub(r"://[^/\s@]+@", "://***@", next(iter(str(error).strip().splitlines()), "no message"))
            self._give_up(f"raised {type(error).__name__}: {reason[:200]}")

    def _give_up(self, why: str) -> None:
        self._gone.set()
        self._say(f"logger {self._name} {why}; it is told nothing more, and the race goes on.")
