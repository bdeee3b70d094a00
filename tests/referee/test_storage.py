"""Where a race is kept: one behaviour on SQLite in a folder and on a real PostgreSQL, also when things die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from typer.testing import CliRunner

from downslope.cli import app
from downslope.referee import RaceError, race
from downslope.referee.address import Address
from downslope.referee.schema import TASKS, WORKERS, Claim, may_begin, swap
from downslope.referee.server import ServerHome
from downslope.referee.store import REPORT, Store, TakenOver
from tests.referee.postgres import PASSWORD, Server, missing
from tests.referee.test_store import plan, record, run_all, trials_only

ROOT = Path(__file__).parents[2]
COUNTED = Path(__file__).parent / "counted_workload.py"
OPTIONS = {"methods": ["adamw", "sgd"], "trials": 2, "seeds": 3}
LEASE = 4.0


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    if reason := missing():
        pytest.skip(reason)
    pytest.importorskip("psycopg")
    server = Server()
    yield server
    server.remove()


@pytest.fixture
def database(postgres: Server, request: pytest.FixtureRequest) -> str:
    """The address of a database of its own for each test."""
    name = f"test_{abs(hash(request.node.nodeid))}"
    engine = sqlalchemy.create_engine(Address(postgres.url).url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return postgres.url.replace("/postgres?", f"/{name}?")


def report_only(task: str, done: frozenset[str]) -> bool:
    return task == REPORT


@dataclass
class Place:
    """Where a test keeps its race, and how a worker dies there."""

    folder: Path
    storage: str | None

    def open(self, worker: str = "", **changes: Any) -> Store:
        folder = self.folder / worker if self.storage else self.folder
        return Store(folder, plan(**changes), self.storage)

    def kill(self, store: Store) -> None:
        """What is left of a worker that was killed: no lock in the folder, an old beat on the server."""
        if self.storage is None:
            store._home._alive.release()
            return
        store._home._heart.stop()
        old = WORKERS.c.beat - sqlalchemy.text("interval '1 hour'")
        self.run(sqlalchemy.update(WORKERS).where(WORKERS.c.worker == store.worker).values(beat=old))
        self.run(sqlalchemy.update(WORKERS).where(WORKERS.c.worker == store.worker).values(lease=0.0))

    def run(self, statement: Any) -> list[Any]:
        url = Address(self.storage).url if self.storage else f"sqlite:///{self.folder / 'race.db'}"
        engine = sqlalchemy.create_engine(url)
        with engine.begin() as connection:
            done = connection.execute(statement)
            found = list(done) if done.returns_rows else []
        engine.dispose()
        return found


@pytest.fixture(params=["folder", "server"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    storage = request.getfixturevalue("database") if request.param == "server" else None
    return Place(tmp_path / "race", storage)


# ------------------------------------------------------------- one behaviour


def test_a_task_is_claimed_once_and_seen_by_the_other_worker(place: Place):
    with place.open("one") as one, place.open("two") as two:
        first, second, third = one.claim(trials_only), two.claim(trials_only), one.claim(trials_only)
        assert [c.task for c in (first, second, third) if c] == list(one.tasks)
        assert two.claim(trials_only) is None
        assert first is not None
        one.progress(replace(first), 7)
        one._pulses.clear()
        one.progress(first, 7)
        assert two.claims()[0].step == 7
        one.finish(first, record())
        assert two.records() == {first.task: record()}


def test_the_task_of_a_dead_worker_is_taken_over_once_and_a_late_result_is_refused(place: Place):
    died = place.open("died")
    lost = died.claim(trials_only)
    assert lost is not None
    with place.open("one") as one, place.open("two") as two:
        other = one.claim(trials_only)
        assert other is not None
        assert other.task != lost.task  # its owner is alive
        place.kill(died)
        again = two.claim(trials_only)
        assert again is not None
        assert (again.task, again.claims) == (lost.task, 2)
        third = one.claim(trials_only)
        assert third is None or third.task != lost.task
        died._pulses.clear()
        with pytest.raises(TakenOver):
            died.progress(lost, 50)
        with pytest.raises(TakenOver, match="taken over by another process"):
            died.finish(lost, record(90))
        assert not two.records()
        two.finish(again, record())
        with pytest.raises(TakenOver):
            died.finish(lost, record(90))
        assert one.records()[lost.task].steps_to_target == 30
    died.close()


def test_what_is_given_back_and_measured_is_seen_by_the_next_worker(place: Place):
    with place.open() as store:
        claim = store.claim(trials_only)
        assert claim is not None
        store.release(claim)
        assert store.claims()[0] == replace(claim, state="waiting", owner=None, claims=0)
        taken = store.claim(trials_only)
        assert store.kept("timing-toy") is None
        store.keep("timing-toy", {"b": [1.5], "a": None})
    with place.open() as store:
        assert store.claims()[0].state == "waiting"  # closing gave it back
        assert taken is not None
        assert store.kept("timing-toy") == {"b": [1.5], "a": None}
        run_all(store)
        store.copy_out()
        assert len(list(store.folder.glob("trials/toy/sgd/*/*.json"))) == 3
        assert json.loads((store.folder / "measured" / "timing-toy.json").read_text()) == {"b": [1.5], "a": None}


def test_while_the_report_is_written_nobody_takes_a_trial_and_the_other_way_round(place: Place):
    with place.open("one") as one, place.open("two") as two:
        report = one.claim(report_only)
        assert report is not None
        assert two.claim(trials_only) is None
        one.release(report)
        trial = two.claim(trials_only)
        assert trial is not None
        assert one.claim(report_only) is None
        two.release(trial)
        assert one.claim(report_only) is not None


def test_of_two_who_take_a_trial_and_the_report_at_once_one_waits_for_the_other(place: Place):
    with place.open("one") as one, place.open("two") as two, ThreadPoolExecutor(1) as thread:
        seen = one.claims()[-1]

        def begin(connection: sqlalchemy.Connection) -> Future[Any]:
            assert may_begin(connection, one.plan.digest, REPORT)
            assert swap(connection, one.plan.digest, seen, replace(seen, state="running", owner=one.worker, claims=1))
            other = thread.submit(two.claim, trials_only)
            assert not wait([other], timeout=0.5).done
            return other

        assert one._home.transact(begin).result(30) is None


def test_a_measurement_of_a_worker_that_slept_is_refused(place: Place):
    slept = place.open("slept")
    run_all(slept)
    assert slept.claim(report_only)
    place.kill(slept)
    with place.open() as store:
        assert not store.busy()
        with pytest.raises(TakenOver):  # before anybody has measured anew
            slept.keep("timing-toy", "beside another")
        report = store.claim(report_only)
        assert report is not None
        store.keep("timing-toy", "alone")
        store.finish(report, None)
        with pytest.raises(TakenOver):
            slept.keep("timing-toy", "beside another")
        assert store.kept("timing-toy") == "alone"
    slept.close()


def test_trials_are_optuna_trials(place: Place):
    import optuna

    with place.open() as store:
        claim = store.claim(trials_only)
        assert claim is not None
        store.finish(claim, record())
        broken = store.claim(trials_only)
        assert broken is not None
        with pytest.MonkeyPatch.context() as patch:  # it dies between storing its result and showing it
            patch.setattr(type(store._home), "mirror", lambda *_: None)
            store.finish(broken, record(None, cause="step 3: the loss became nan"))
        run_all(store)
        report = store.claim(lambda task, done: True)
        assert report is not None
        assert report.task == REPORT
        store.finish(report, None)
        prefix = f"{store.plan.digest}/" if place.storage else ""
    url = Address(place.storage).url.render_as_string(hide_password=False) if place.storage else None
    storage = optuna.storages.RDBStorage(url or f"sqlite:///{place.folder / 'race.db'}")
    study = optuna.load_study(study_name=f"{prefix}toy/sgd/tune", storage=storage)
    assert sorted(t.state.name for t in study.trials) == ["COMPLETE", "FAIL"]
    assert study.best_value == 30
    assert len(optuna.load_study(study_name=f"{prefix}toy/sgd/seed", storage=storage).trials) == 1
    storage.remove_session()
    storage.engine.dispose()


# ------------------------------------------------------------- on a server


def test_many_workers_begin_two_races_in_one_database_at_once(database: str, tmp_path: Path):
    found: list[Store] = []
    errors: list[BaseException] = []
    barrier = threading.Barrier(6)

    def begin(i: int) -> None:
        barrier.wait()
        try:
            found.append(Store(tmp_path / str(i), plan(seed=i % 2), database))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=begin, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    taken: list[tuple[int, str]] = []
    for store in found * 3:
        if claim := store.claim(trials_only):
            taken.append((store.plan.seed, claim.task))
    assert len(taken) == len(set(taken)) == 6  # three tasks of either race, each once
    for store in found:
        store.close()
    assert not Place(tmp_path, database).run(sqlalchemy.select(WORKERS))


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_server_that_restarts_is_waited_for(
    postgres: Server, database: str, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
):
    with Store(tmp_path, plan(), database) as store:
        claim = store.claim(trials_only)
        assert claim is not None
        postgres.restart(mode)
        store.finish(claim, record())
        assert store.records() == {claim.task: record()}
        # An old beat does not count as death until a whole lease after the start of the server.
        store._home._heart.stop()
        place = Place(tmp_path, database)
        place.run(sqlalchemy.update(WORKERS).values(beat=WORKERS.c.beat - sqlalchemy.text("interval '1 hour'")))
        with Store(tmp_path, plan(), database) as other:
            assert not other._home.is_gone(store.worker)
            assert other._home.is_gone("nobody")
            place.run(sqlalchemy.update(WORKERS).values(lease=0.0))
            assert other._home.is_gone(store.worker)
            assert not other._home.is_gone(other.worker)


@pytest.fixture
def impatient(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Store, Claim]]:
    """A store that soon gives a server up, and a trial that it has."""
    monkeypatch.setattr("downslope.referee.server.PATIENCE", 0.3)
    with Store(tmp_path, plan(), database) as store:
        claim = store.claim(trials_only)
        assert claim is not None
        yield store, claim


def test_a_server_that_stays_away_is_one_sentence_and_loses_nothing(postgres: Server, impatient: tuple[Store, Claim]):
    store, claim = impatient
    store.finish(claim, record())
    with (
        postgres.away(),
        pytest.raises(RaceError, match="has not answered for 0 s .*what is stored is kept") as error,
    ):
        store.claims()
    assert_silent(error.value)
    assert store.records() == {claim.task: record()}


def test_a_worker_that_stops_because_the_server_is_away_waits_for_it_once(
    postgres: Server, impatient: tuple[Store, Claim], monkeypatch: pytest.MonkeyPatch
):
    store, claim = impatient
    slept: list[float] = []
    with postgres.away():
        with pytest.raises(RaceError, match="has not answered"):
            store.claims()
        with monkeypatch.context() as patch:
            patch.setattr("downslope.referee.server.time.sleep", slept.append)
            store.release(claim)
            store.close()
    assert slept == []


def test_an_answer_lost_on_the_way_is_not_a_change_made_twice(database: str, tmp_path: Path):
    import psycopg

    with Store(tmp_path, plan(), database) as store:
        assert isinstance(store._home, ServerHome)
        patiently = store._home._patiently

        def lossy(attempt: Callable[[], Any]) -> Any:
            """Every change is made, and the answer to its first attempt is lost."""
            lost: list[bool] = []

            def once() -> Any:
                answer = attempt()
                if not lost:
                    lost.append(True)
                    gone = psycopg.OperationalError("the connection is lost")
                    raise sqlalchemy.exc.OperationalError("UPDATE", None, gone)
                return answer

            return patiently(once)

        store._home._patiently = lossy  # type: ignore[method-assign]
        claim = store.claim(trials_only)
        assert claim is not None
        assert store.claims()[0].claims == 1
        store.finish(claim, record())
        assert store.records() == {claim.task: record()}
        assert len(store._home._mirror._study(store.tasks[claim.task]).trials) == 1
        second = store.claim(trials_only)
        assert second is not None
        store.release(second)
        assert [c.claims for c in store.claims()][:2] == [1, 0]


def test_the_trials_of_a_folder_move_to_the_server(database: str, tmp_path: Path):
    with Store(tmp_path, plan()) as store:
        claim = store.claim(trials_only)
        assert claim is not None
        store.finish(claim, record())
    with Store(tmp_path, plan(), database) as store:
        assert store.records() == {claim.task: record()}
        assert [c.state for c in store.claims()].count("waiting") == 3
    with pytest.raises(RaceError, match="holds a different race: trials 2 there and 9 here"):
        Store(tmp_path, plan(trials=9), database)


# ------------------------------------------------------------- the password


def assert_silent(error: BaseException) -> None:
    """Neither the error nor what led to it holds the password, in whatever way it is shown."""
    seen: BaseException | None = error
    texts = ["".join(traceback.format_exception(error))]
    while seen is not None:
        texts += [str(seen), repr(seen)]
        seen = seen.__cause__ or seen.__context__
    for text in texts:
        assert_no_password(text)


def assert_no_password(text: str) -> None:
    from urllib.parse import quote

    for secret in (PASSWORD, quote(PASSWORD, safe=""), quote(PASSWORD), "s3cr3t", "geheim"):
        assert secret not in text, f"{secret} in {text}"


@pytest.mark.parametrize(
    ("storage", "sentence"),
    [
        ("postgresql://racer:geheim@/postgres?host={host}", "cannot be reached .*password authentication failed"),
        ("postgresql://racer@/postgres?host={host}&password=geheim", "cannot be reached .*password auth"),
        ("postgresql://racer:geheim@/postgres?host=/nowhere", "cannot be reached .*No such file"),
        ("postgresql://racer:geheim@/postgres?host={host}&nonsense=1", "cannot be reached .*nonsense"),
        ("postgresql://racer:a@geheim@localhost/x", "cannot be read: write the characters @ : / .* as %40"),
        ("postgresql://racer:geheim/1@localhost:x/y", "cannot be read"),
        ("postgresql://racer:geheim@localhost", "cannot be read"),
        ("racer:geheim@localhost/x", "must be a PostgreSQL address, .*; got something else"),
        ("mysql://racer:geheim@localhost/x", r"must be a PostgreSQL address, .*; got mysql://…\."),
        ("sqlite:///race.db", "SQLite file cannot be shared by several machines; leave --storage out"),
    ],
)
def test_a_wrong_address_is_one_sentence_without_the_password(
    postgres: Server, tmp_path: Path, storage: str, sentence: str
):
    with pytest.raises(RaceError, match=sentence) as error:
        Store(tmp_path / "race", plan(), storage.format(host=postgres.folder))
    assert error.value.bad_input
    assert "\n" not in str(error.value)
    assert_silent(error.value)
    assert not (tmp_path / "race").exists()


def test_a_driver_that_repeats_the_password_is_not_repeated():
    address = Address("postgresql://racer:geheim%2Fer@host:5/db?sslpassword=leise")
    error = ValueError("cannot log in with geheim/er (geheim%2Fer), key leise, to host\nand more")
    assert address.reason(error) == "cannot log in with *** (***), key ***, to host"
    assert (str(address), repr(address)) == ("host:5/db", "Address('host:5/db')")


def test_the_command_shows_no_password(postgres: Server, tmp_path: Path, toy_file: Path):
    wrong = f"postgresql://racer:geheim@/postgres?host={postgres.folder}"
    line = ["race", str(toy_file), "--methods", "sgd", "--folder", str(tmp_path / "race")]
    for arguments, environment, code in (
        ([*line, "--storage", wrong], {}, 2),
        (line, {"DOWNSLOPE_STORAGE": wrong}, 2),
        (["race", "--help"], {"DOWNSLOPE_STORAGE": wrong}, 0),
    ):
        done = CliRunner().invoke(app, arguments, env=environment)
        assert done.exit_code == code, done.output
        assert_no_password(done.output)
        assert "cannot be reached" in done.output or code == 0
    assert not (tmp_path / "race").exists()


def test_the_password_may_come_from_elsewhere(
    postgres: Server, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bare = postgres.url_without_password
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    Store(tmp_path, plan(), bare).close()
    monkeypatch.delenv("PGPASSWORD")
    written = PASSWORD.replace("\\", "\\\\").replace(":", "\\:")
    (tmp_path / "passwords").write_text(f"*:*:*:racer:{written}\n")
    (tmp_path / "passwords").chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "passwords"))
    Store(tmp_path, plan(), bare).close()


def test_without_the_driver_it_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(RaceError, match=r"needs the driver psycopg; install it with `pip install 'downslope\[post"):
        Store(tmp_path / "race", plan(), "postgresql://racer:geheim@localhost/x")


def test_a_lease_is_a_number_of_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DOWNSLOPE_LEASE", "soon")
    with pytest.raises(RaceError, match="DOWNSLOPE_LEASE must be seconds between 0.5 and 86400; got 'soon'"):
        Store(tmp_path / "race", plan(), "postgresql://localhost/x")


# ------------------------------------------------------------- the story


def wait_for(condition: Callable[[], bool], crew: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert crew.poll() is None, "the workers ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_worker_killed_and_the_database_restarted_lose_no_trial_and_count_none_twice(
    place: Place, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    traces = tmp_path / "traces"
    traces.mkdir()
    (traces / "ended").write_text("")
    gate = traces / "gate"
    gate.write_text("3")
    environment = {"TRACES": str(traces), "DOWNSLOPE_LEASE": str(LEASE)}
    folders = [str(place.folder / str(i)) if place.storage else str(place.folder) for i in range(3)]
    workers = [{"folder": folder, "environment": dict(environment)} for folder in folders]
    workers[0]["environment"]["VICTIM"] = "yes"  # type: ignore[index]
    order = {"workload": str(COUNTED), "options": OPTIONS | {"storage": place.storage}, "workers": workers}

    def ended() -> int:
        return len((traces / "ended").read_text().splitlines())

    with (
        (tmp_path / "said").open("w") as said_to_people,
        subprocess.Popen(
            [sys.executable, "-m", "tests.referee.crew", json.dumps(order)],
            stdout=subprocess.PIPE,
            stderr=said_to_people,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        ) as crew,
    ):
        assert crew.stdout is not None
        pids = json.loads(crew.stdout.readline())["pids"]
        try:
            wait_for(lambda: (traces / "victim").exists() and ended() >= 3, crew)
            os.killpg(pids[0], signal.SIGKILL)
            if place.storage:
                request.getfixturevalue("postgres").restart("immediate")
            gate.write_text("7")
            wait_for(lambda: ended() >= 7, crew)
            if place.storage:
                request.getfixturevalue("postgres").restart("fast")
            gate.write_text("100")
            said = [json.loads(line) for line in crew.communicate(timeout=120)[0].splitlines()]
        except BaseException:
            for pid in pids:
                os.killpg(pid, signal.SIGKILL)
            raise
    log = (tmp_path / "said").read_text()
    assert said[-1]["codes"] == [-signal.SIGKILL, 0, 0], (said, log)
    assert said[0] == said[1]  # the same verdict from both

    contents = [json.loads((Path(folder) / "results.json").read_text()) for folder in folders[1:]]
    trials = [t["task"] for t in contents[0]["workloads"][0]["trials"]]
    assert len(trials) == len(set(trials)) == 10
    assert ended() == 10  # by what the trials themselves have left behind: each ended exactly once
    assert contents[0] == contents[1]
    claims = {c.task: c.claims for c in place_claims(place, contents[0])}
    assert sorted(claims.values()) == [1] * 10 + [2]  # the victim's trial was taken over, once
    for folder in folders[1:]:
        assert (Path(folder) / "report.html").is_file()
        assert len(list(Path(folder).glob("trials/*/*/*/*.json"))) == 10

    # The same race in one undisturbed process found the same.
    monkeypatch.setenv("TRACES", str(traces))
    monkeypatch.setattr("downslope.referee.worker.TIMING", {"seconds": 0.0, "least_turns": 2})
    alone = race(str(COUNTED), folder=tmp_path / "alone", quiet=True, **OPTIONS).content  # type: ignore[arg-type]
    assert [curve(t) for t in alone["workloads"][0]["trials"]] == [
        curve(t) for t in contents[0]["workloads"][0]["trials"]
    ]
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert_no_password(path.read_bytes().decode("utf-8", "replace"))


def place_claims(place: Place, content: dict[str, Any]) -> list[Any]:
    return place.run(sqlalchemy.select(TASKS.c.task, TASKS.c.claims))


def curve(trial: dict[str, Any]) -> Any:
    return trial["task"], trial["hyper"], [(p["step"], p["loss"], p["metric"]) for p in trial["curve"]]
