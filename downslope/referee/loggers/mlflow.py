"""MLflow: the race is an experiment, each method on each workload a parent run, each trial a run below it."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

from downslope.referee.address import sqlite_address
from downslope.referee.events import Event
from downslope.referee.loggers import require

__all__ = ["MLflow"]


class MLflow:
    """Logs through MLflow's client; needs the extra `mlflow`.

    Args:
        tracking_uri: a server, a database or a folder; the environment variable `MLFLOW_TRACKING_URI` by default, and
            without it the file `mlflow.db` in the race's folder (`mlflow ui --backend-store-uri sqlite:///…`).
        experiment: its name; `downslope/<race>` by default.
    """

    name = "mlflow"

    def __init__(self, tracking_uri: str | None = None, *, experiment: str | None = None) -> None:
        self._module = require(self.name, "mlflow.tracking")
        self._entities = require(self.name, "mlflow.entities")
        self._uri, self._name = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI"), experiment
        self._metrics: dict[str, str] = {}
        self._client: Any = None
        self._experiment = ""
        self._parents: dict[tuple[str, str], str] = {}
        self._runs: dict[str, str] = {}

    def __call__(self, event: Event) -> None:
        match event["event"]:
            case "race_started":
                self._start(event)
            case "trial_started":
                self._runs[event["trial"]] = self._trial(event)
            case "point":
                values = {self._metrics[event["workload"]]: event["metric"], "training_loss": event["loss"]}
                self._log(self._runs[event["trial"]], values, step=event["step"])
            case "trial_finished":
                self._finish(event)
            case "verdict":
                self._verdict(event)

    def close(self) -> None:
        for run in [*self._runs.values(), *self._parents.values()]:
            self._client.set_terminated(run, status="KILLED")
        self._runs, self._parents = {}, {}

    def _start(self, event: Event) -> None:
        self._metrics = {w["name"]: _clean(w["metric_name"]) for w in event["workloads"]}
        self._runs, self._parents = {}, {}  # what an earlier race has left
        folder = Path(event["folder"]).resolve()
        place = {} if self._uri else {"artifact_location": (folder / "mlflow-artifacts").as_uri()}
        self._client = self._module.MlflowClient(tracking_uri=self._uri or sqlite_address(folder / "mlflow.db"))
        name = self._name or f"downslope/{event['name']}"
        found = self._client.get_experiment_by_name(name)
        self._experiment = found.experiment_id if found else self._client.create_experiment(name, **place)

    def _parent(self, workload: str, method: str) -> str:
        """The run of a method on a workload: found again when a race goes on."""
        if (workload, method) not in self._parents:
            name = f"{workload} {method}"
            quoted = name.replace("'", "''")
            found = self._client.search_runs(
                [self._experiment], f"tags.\"downslope.method\" = '{quoted}'", max_results=1
            )
            run = (
                found[0]
                if found
                else self._client.create_run(self._experiment, run_name=name, tags={"downslope.method": name})
            )
            self._parents[workload, method] = run.info.run_id
        return self._parents[workload, method]

    def _trial(self, event: Event) -> str:
        tags = {f"downslope.{k}": str(event[k]) for k in ("trial", "workload", "phase", "index")}
        tags["mlflow.parentRunId"] = self._parent(event["workload"], event["method"])
        name = f"{event['method']} {event['phase']} {event['index'] + 1}"
        run_id: str = self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id
        params = {**event["hyper"], "method": event["method"], "seed": event["seed"]}
        self._client.log_batch(run_id, params=[self._entities.Param(_clean(k), str(v)) for k, v in params.items()])
        return run_id

    def _log(self, run_id: str, values: dict[str, float | None], *, step: int) -> None:
        now = int(time.time() * 1000)
        known = {name: value for name, value in values.items() if value is not None}
        metrics = [self._entities.Metric(name, value, now, step) for name, value in known.items()]
        self._client.log_batch(run_id, metrics=metrics)

    def _finish(self, event: Event) -> None:
        run_id = self._runs.pop(event["trial"], None) or self._trial(event)
        self._log(run_id, {k: event[k] for k in ("steps", "steps_to_target", "best_metric")}, step=event["steps"])
        if event["cause"]:
            self._client.set_tag(run_id, "downslope.cause", event["cause"])
        self._client.set_terminated(run_id, status="FAILED" if event["cause"] else "FINISHED")

    def _verdict(self, event: Event) -> None:
        for s in event["standings"]:
            run_id = self._parent(s["workload"], s["method"])
            self._client.set_tag(run_id, "downslope.verdict", event["verdict"])
            steps = s["steps"]["value"]
            for name, value in (("hits", s["hits"]), ("runs", s["runs"]), ("steps_to_target", steps)):
                if value is not None:
                    self._client.log_metric(run_id, name, value)
            self._client.set_terminated(run_id, status="FINISHED")
        self._parents = {}


def _clean(name: str) -> str:
    """A name that MLflow takes: letters, digits, and `_ - . /` and spaces."""
    return re.sub(r"[^\w\-./ ]", "_", name)
