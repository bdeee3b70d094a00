"""Loggers with the real clients: what they wrote is read back by the tools that people read it with."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from downslope.referee import RaceError, Result, Workload, race, worker
from downslope.referee.address import sqlite_address
from downslope.referee.loggers import MLflow, open_loggers

pytestmark = pytest.mark.filterwarnings(  # of MLflow's own use of SQLAlchemy
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"
)

PASSWORD = "geheimnis42"


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, toy: Workload) -> Result:
    """A race that was logged by all; not to be changed."""
    pytest.importorskip("tensorboard")
    pytest.importorskip("wandb")
    pytest.importorskip("mlflow")
    folder = tmp_path_factory.mktemp("races") / "log%20ged"  # an address would read it as "log ged"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "TIMING", {"seconds": 0.0, "least_turns": 2})
        patch.setenv("WANDB_MODE", "offline")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(sys, "argv", ["downslope", "race", "toy", "--storage", f"postgresql://me:{PASSWORD}@host/races"])
        loggers = ["tensorboard", "wandb", "mlflow"]
        return race(toy, methods=["adamw", "sgd"], trials=1, seeds=1, quiet=True, folder=folder, loggers=loggers)


def test_no_logger_keeps_the_command_line_with_the_storages_password(logged: Result):
    files = [path for path in logged.folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not [path for path in files if PASSWORD.encode() in path.read_bytes()]


def curve(result: Result, task: str, what: str = "metric") -> dict[int, float]:
    trial = next(t for t in result.content["workloads"][0]["trials"] if t["task"] == task)
    return {p["step"]: pytest.approx(p[what], rel=1e-6) for p in trial["curve"] if p[what] is not None}


def test_tensorboard_shows_every_trial_with_its_curves(logged: Result):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    root = logged.folder / "tensorboard"
    runs = {str(p.parent.relative_to(root)) for p in root.rglob("events.*")}
    assert runs == {f"toy/{m}/{run}" for m in ("adamw", "sgd") for run in ("tune-000", "seed-000")} | {"verdict"}
    board = EventAccumulator(str(root / "toy" / "sgd" / "seed-000")).Reload()
    for tag, what in (("accuracy", "metric"), ("training_loss", "loss")):
        assert {e.step: e.value for e in board.Scalars(tag)} == curve(logged, "toy/sgd/seed/000", what)
    content = board.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert HParamsPluginData.FromString(content).session_start_info.hparams["method"].string_value == "sgd"
    verdict = EventAccumulator(str(root / "verdict")).Reload().Tensors("verdict/text_summary")[0]
    assert verdict.tensor_proto.string_val[0].decode() == logged.sentence


def test_a_trial_that_starts_again_purges_what_was_logged_of_it(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    keys = {"trial": "w/m/seed/000", "workload": "w", "method": "m", "phase": "seed", "index": 0}
    for values in ([0.1, 0.2], [0.7]):
        (logger,) = open_loggers(["tensorboard"])
        workloads = [{"name": "w", "metric_name": "accuracy"}]
        logger({"event": "race_started", "folder": str(tmp_path), "workloads": workloads})
        logger({"event": "trial_started", **keys})
        for step, value in enumerate(values):
            logger({"event": "point", **keys, "step": step, "metric": value, "loss": None})
        logger.close()  # type: ignore[attr-defined]
    board = EventAccumulator(str(tmp_path / "tensorboard" / "w" / "m" / "seed-000")).Reload()
    assert [e.value for e in board.Scalars("accuracy")] == [pytest.approx(0.7)]


@pytest.mark.parametrize("name", ["tensorboard", "csv", "jsonl"])
@pytest.mark.parametrize("ended", [True, False])
def test_a_second_race_of_the_same_logger_leaves_the_first_ones_files_alone(tmp_path: Path, name: str, ended: bool):
    if name == "tensorboard":
        pytest.importorskip("tensorboard")
    (logger,) = open_loggers([name])
    point = {"step": 1, "metric": 0.1, "loss": None, "seconds": 0.0}
    trial = {"trial": "w/m/seed/000", "workload": "w", "method": "m", "phase": "seed", "index": 0, "seed": 3}

    def written(race: str) -> set[Path]:
        return {path for path in (tmp_path / race).rglob("*") if path.is_file()}

    for race_name in ("first", "second"):
        first = written("first")
        workloads = [{"name": "w", "metric_name": "accuracy"}]
        logger({"event": "race_started", "folder": str(tmp_path / race_name), "workloads": workloads})
        logger({"event": "trial_started", **trial})
        logger({"event": "point", **trial, **point})
        if ended:
            logger.close()  # type: ignore[attr-defined]
    assert first
    assert written("first") == first
    assert len(written("second")) == len(first)
    logger.close()  # type: ignore[attr-defined]


def wandb_records(path: Path) -> list[Any]:
    """The records of an offline run: LevelDB's log format, blocks of 32 KiB after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole, found = path.read_bytes(), 7, b"", []
    while at < len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(Record.FromString(whole))
            whole = b""
    return found


def test_weights_and_biases_has_one_run_per_trial_in_groups(logged: Result):
    runs = {}
    for path in (logged.folder / "wandb").glob("offline-run-*/*.wandb"):
        records = wandb_records(path)
        run = next(r.run for r in records if r.WhichOneof("record_type") == "run")
        history = [
            {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in r.history.item}
            for r in records
            if r.WhichOneof("record_type") == "history"
        ]
        runs[run.display_name] = (run, history)
    assert set(runs) == {f"{m} {phase} 1" for m in ("adamw", "sgd") for phase in ("tune", "seed")} | {"verdict"}
    run, history = runs["sgd seed 1"]
    assert (run.project, run.run_group, run.job_type) == ("downslope", "log%20ged toy", "seed")
    assert set(run.tags) == {"toy", "sgd", "seed"}
    config = {u.key: json.loads(u.value_json) for u in run.config.update}
    trial = next(t for t in logged.content["workloads"][0]["trials"] if t["task"] == "toy/sgd/seed/000")
    assert config["lr"] == trial["hyper"]["lr"]
    assert config["seed"] == trial["seed"]
    for key, what in (("accuracy", "metric"), ("training_loss", "loss")):
        assert {h["step"]: h[key] for h in history if key in h} == curve(logged, "toy/sgd/seed/000", what)


def test_weights_and_biases_without_a_login_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    pytest.importorskip("wandb")
    from downslope.referee.loggers import WandB

    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(RaceError, match="logger 'wandb' has no login on this machine; run `wandb login`"):
        WandB(mode="online")
    WandB(mode="offline")


def check_mlflow(result: Result, uri: str) -> None:
    """An experiment with a run per method, and below it a run per trial."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(f"downslope/{result.folder.name}")
    found = client.search_runs([experiment.experiment_id])
    runs = {r.info.run_name: r for r in found}
    assert len(runs) == len(found)
    assert set(runs) == {
        *("toy adamw", "adamw tune 1", "adamw seed 1"),
        *("toy sgd", "sgd tune 1", "sgd seed 1"),
    }
    assert {r.info.status for r in runs.values()} == {"FINISHED"}
    run = runs["sgd seed 1"]
    assert run.data.tags["mlflow.parentRunId"] == runs["toy sgd"].info.run_id
    trial = next(t for t in result.content["workloads"][0]["trials"] if t["task"] == "toy/sgd/seed/000")
    assert run.data.params["lr"] == str(trial["hyper"]["lr"])
    for key, what in (("accuracy", "metric"), ("training_loss", "loss")):
        history = client.get_metric_history(run.info.run_id, key)
        assert {m.step: m.value for m in history} == curve(result, "toy/sgd/seed/000", what)
    assert runs["toy sgd"].data.tags["downslope.verdict"] == result.sentence


def test_mlflow_has_a_run_per_method_and_below_it_a_run_per_trial(logged: Result):
    check_mlflow(logged, sqlite_address(logged.folder / "mlflow.db"))


def test_mlflow_writes_to_a_folder_and_a_race_that_goes_on_keeps_its_parents(
    toy: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    monkeypatch.setattr(worker, "TIMING", {"seconds": 0.0, "least_turns": 2})
    for _ in range(2):
        logger = MLflow(uri)
        result = race(
            toy, methods=["adamw", "sgd"], trials=1, seeds=1, quiet=True, folder=tmp_path / "r", loggers=[logger]
        )
    check_mlflow(result, uri)
