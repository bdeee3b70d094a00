"""Weights & Biases: one run per trial, grouped by race and workload."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from downslope.referee.errors import RaceError
from downslope.referee.events import Event
from downslope.referee.loggers import require

__all__ = ["WandB"]


class WandB:
    """Logs through the client `wandb`; needs the extra `wandb`, and `wandb login` unless it is offline.

    A run is called `<method> <phase> <index>`, grouped by `<race> <workload>`, of job type `tune` or `seed`, tagged
    with workload, method and phase; its config holds the hyperparameters and the seed. The verdict is one more run.

    Args:
        project: the project's name.
        entity: user or team; that of the login by default.
        mode: `"online"`, `"offline"` or `"disabled"`; as the environment variable `WANDB_MODE` says by default.
        folder: for wandb's own files; the race's folder by default.
    """

    name = "wandb"

    def __init__(
        self,
        project: str = "downslope",
        *,
        entity: str | None = None,
        mode: str | None = None,
        folder: str | None = None,
    ) -> None:
        self._wandb = require(self.name, "wandb")
        self._settings = self._wandb.Settings(silent=True, console="off", x_disable_stats=True)
        # wandb reads the environment once in a process, maybe before the user has set it.
        mode = mode or os.environ.get("WANDB_MODE")
        with _without_arguments():
            online = (mode or self._wandb.setup().settings.mode) == "online"
        if online and not self._wandb.login(prompt=False, verify=False):
            raise RaceError(
                "logger 'wandb' has no login on this machine; run `wandb login`, or set WANDB_MODE=offline.",
                bad_input=True,
            )
        self._where = {"project": project, "entity": entity, "mode": mode}
        self._folder = folder
        self._race: Event = {}
        self._runs: dict[str, Any] = {}

    def __call__(self, event: Event) -> None:
        match event["event"]:
            case "race_started":
                self._race = event
            case "trial_started":
                self._runs[event["trial"]] = self._trial(event)
            case "point":
                loss = {} if event["loss"] is None else {"training_loss": event["loss"]}
                facts = {self._metric(event["workload"]): event["metric"], "seconds": event["seconds"], **loss}
                self._runs[event["trial"]].log({"step": event["step"], **facts})
            case "trial_finished":
                self._finish(event)
            case "verdict":
                self._verdict(event)

    def close(self) -> None:
        for run in self._runs.values():
            run.finish(exit_code=1)
        self._runs = {}

    def _metric(self, workload: str) -> str:
        return next(str(w["metric_name"]) for w in self._race["workloads"] if w["name"] == workload)

    def _init(self, **kind: Any) -> Any:
        folder = self._folder or self._race["folder"]
        with _without_arguments():
            return self._wandb.init(**self._where, **kind, dir=folder, reinit="create_new", settings=self._settings)

    def _trial(self, event: Event) -> Any:
        run = self._init(
            name=f"{event['method']} {event['phase']} {event['index'] + 1}",
            group=f"{self._race['name']} {event['workload']}",
            job_type=event["phase"],
            tags=[event[k][:64] for k in ("workload", "method", "phase")],
            config={**event["hyper"], **{k: event[k] for k in ("workload", "method", "phase", "index", "seed")}},
        )
        run.define_metric("*", step_metric="step")
        return run

    def _finish(self, event: Event) -> None:
        run = self._runs.pop(event["trial"], None) or self._trial(event)
        for name in ("steps", "steps_to_target", "best_metric", "cause"):
            run.summary[name] = event[name]
        run.finish(exit_code=1 if event["cause"] else 0)

    def _verdict(self, event: Event) -> None:
        run = self._init(name="verdict", group=self._race["name"], job_type="verdict", tags=["verdict"])
        for name in ("verdict", "winner", "decided"):
            run.summary[name] = event[name]
        for s in event["standings"]:
            for name, value in (("hits", s["hits"]), ("runs", s["runs"]), ("steps", s["steps"]["value"])):
                run.summary[f"{s['workload']}/{s['method']}/{name}"] = value
        run.finish()


@contextlib.contextmanager
def _without_arguments() -> Iterator[None]:
    """wandb keeps the command line with every run; the storage's password may be in it."""
    arguments = sys.argv[1:]
    del sys.argv[1:]
    try:
        yield
    finally:
        sys.argv[1:] = arguments
