"""TensorBoard: one run per trial, `<workload>/<method>/<phase>-<index>`, with its hyperparameters and its curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from downslope.referee.events import Event
from downslope.referee.loggers import require

__all__ = ["TensorBoard"]


class TensorBoard:
    """Writes event files for `tensorboard --logdir FOLDER`; needs the extra `tensorboard`.

    Metric and training loss come while a trial runs, its entry in the hyperparameter table when it ends; the verdict is
    a text of the run `verdict`.

    Args:
        folder: where the runs are written; `tensorboard` in the race's folder by default.
    """

    name = "tensorboard"

    def __init__(self, folder: str | Path | None = None) -> None:
        require(self.name, "tensorboard")
        self._writer = require(self.name, "torch.utils.tensorboard").SummaryWriter
        self._given, self._folder = folder, Path()
        self._metrics: dict[str, str] = {}
        self._open: dict[str, Any] = {}

    def __call__(self, event: Event) -> None:
        match event["event"]:
            case "race_started":
                self.close()  # what an earlier race has left open
                self._folder = Path(self._given or Path(event["folder"]) / "tensorboard")
                self._metrics = {w["name"]: w["metric_name"] for w in event["workloads"]}
            case "trial_started":
                self._of(event)
            case "point":
                for tag, value in (
                    (self._metrics[event["workload"]], event["metric"]),
                    ("training_loss", event["loss"]),
                ):
                    if value is not None:
                        self._of(event).add_scalar(tag, value, event["step"])
            case "trial_finished":
                self._finish(event)
            case "verdict":
                with self._writer(str(self._folder / "verdict")) as writer:
                    writer.add_text("verdict", event["verdict"])

    def close(self) -> None:
        for writer in self._open.values():
            writer.close()
        self._open = {}

    def _of(self, event: Event) -> Any:
        """The writer of a trial's run; what an earlier process left of it is removed."""
        if event["trial"] not in self._open:
            run = self._folder / event["workload"] / event["method"] / f"{event['phase']}-{event['index']:03d}"
            for unfinished in run.glob("events.out.tfevents.*"):
                unfinished.unlink()
            self._open[event["trial"]] = self._writer(str(run))
        return self._open[event["trial"]]

    def _finish(self, event: Event) -> None:
        writer = self._of(event)
        plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in event["hyper"].items()}
        results = {k: event[k] for k in ("best_metric", "steps_to_target") if event[k] is not None}
        writer.add_hparams(
            {**plain, "method": event["method"]}, {f"trial/{k}": v for k, v in results.items()}, run_name="."
        )
        if event["cause"]:
            writer.add_text("cause", event["cause"])
        writer.close()
        del self._open[event["trial"]]
