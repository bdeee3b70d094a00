"""Isolation: the race's side of errands that are done in processes of their own, with limits on time and memory.

`Household.start` begins an errand, `Household.wait` returns those that have ended, each with an answer or with a cause
in one sentence; `Household.ask` does both for one. Nothing that an errand starts outlives the household: see `child`.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from downslope.referee.child import command
from downslope.referee.errors import RaceError
from downslope.referee.memory import held_by
from downslope.referee.pipes import Lines, Tail
from downslope.referee.trial import Point, Progress

__all__ = ["SILENCE", "Errand", "Household", "supported"]

SILENCE = 1800.0
"""Seconds after which an errand without a limit of its own is ended if it has shown no progress: no step, no point."""
GRACE = 10.0
"""Seconds that a process may take to end once it has answered, or was told to."""
OPEN = 2
"""Workloads that are kept loaded at once; one that is needed again is loaded again."""
TICK = 0.1
ADDRESS = "DOWNSLOPE_STORAGE"
"""The variable that may hold the storage's password: a workload does not get to see it."""
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


def supported() -> bool:
    """Whether this system can hand sockets to another process; where it cannot, races run in the caller's process."""
    return hasattr(socket, "send_fds") and sys.platform != "win32"


class Errand:
    """Something that is done in a process of its own.

    `answer` is what came back; `cause` says in one sentence why nothing did, and `bad_input` whether the user is asked
    to change something. `died` tells that the process ended without a word, `lost` that the process that had started it
    did so, with it: it may be tried again. `step` counts the steps done; -1 until the model is built and evaluated.
    `told` is called, while somebody waits, after steps and with every point of the curve.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        *,
        seconds: float | None = None,
        memory: int | None = None,
    ) -> None:
        self.told: Progress = lambda step, point: None
        self.pid: int | None = None
        self.points: list[Point] = []
        self.answer: Any = None
        self.cause: str | None = None
        self.bad_input = self.died = self.lost = self.stopped = self.ended = False
        self.step = -1
        self.output = Tail(selector)
        self._selector, self._seconds, self._memory = selector, seconds, memory
        self._board_file = tempfile.TemporaryFile()  # noqa: SIM115
        self._board_file.write(struct.pack("<q", -1))
        self._board_file.flush()
        self._board = mmap.mmap(self._board_file.fileno(), 8)
        mine, self._theirs = socket.socketpair()
        self._link = Lines(mine)
        self._began = self._moved = time.monotonic()
        self._overdue, self._killed = "", False
        self._answered: float | None = None
        selector.register(mine, selectors.EVENT_READ, self.hear)

    def hand_over(self, control: socket.socket, number: int, request: Mapping[str, Any]) -> None:
        """Give the nursery the ends that belong to the errand, and send the request."""
        with self._theirs, self._board_file:
            ends = [self._theirs.fileno(), self._board_file.fileno(), self.output.writing]
            with contextlib.suppress(OSError):  # a nursery that is gone is noticed when its socket is read
                socket.send_fds(control, [struct.pack("<q", number)], ends)
        self.output.handed_over()
        self._link.source.setblocking(True)
        with contextlib.suppress(OSError):
            self._link.source.sendall((json.dumps(request) + "\n").encode())
        self._link.source.setblocking(False)

    def hear(self) -> None:
        """Take the points and the answer that have come."""
        if self._link.closed:
            return
        for line in self._link.read():
            if "point" in line:
                self.points.append(Point(*line["point"]))
                self._tell(self.points[-1])
            else:
                self._answered = time.monotonic()
                self.answer, self.cause = line.get("answer"), line.get("error")
                self.bad_input = line.get("bad_input", False)
        if self._link.closed:
            self._selector.unregister(self._link.source)

    def look(self) -> bool:
        """Note how far it is; true when it must be killed."""
        now = time.monotonic()
        if self._read_step():
            self._moved = now
            self._tell(None)
        if self.stopped or self._overdue:
            return self._kill_once()
        if self._answered is not None:
            self._overdue = "it did not end" if now - self._answered > GRACE else ""
        elif self._seconds is not None and self.pid is not None:
            if now - self._began > self._seconds:
                self._overdue = f"it was ended at its limit of {self._seconds:g} s"
        elif now - self._moved > SILENCE:
            self._overdue = (
                f"it was ended after {SILENCE / 60:g} minutes without a step; a limit of its own (trial_seconds) "
                f"replaces this one"
            )
        if not self._overdue and self._memory is not None and self.pid is not None:
            held = held_by(self.pid, self._memory)
            if held > self._memory:
                self._overdue = f"it was ended at its limit of {_gb(self._memory)} of memory, holding {_gb(held)}"
        return bool(self._overdue) and self._kill_once()

    def _kill_once(self) -> bool:
        first, self._killed = not self._killed, True
        return first

    def _tell(self, point: Point | None) -> None:
        if not self.stopped:
            self.told(self.step if point is None else point.step, point)

    def stop(self) -> None:
        """Have it killed: nobody wants its answer, nor to be told."""
        self.stopped = True

    def _read_step(self) -> bool:
        """Whether it has moved since the last look."""
        before, (self.step,) = self.step, struct.unpack_from("<q", self._board, 0)
        return self.step > before

    def begun(self, pid: int) -> None:
        """It has a process: its time starts."""
        self.pid = pid
        self._began = self._moved = time.monotonic()

    def end(self, status: int | None, said: str = "") -> None:
        """Its process has ended with a status; None if the nursery has, with it. `said` is what came before its own."""
        self.hear()
        self.output.close()
        if not self._link.closed:
            self._selector.unregister(self._link.source)
            self._link.closed = True
        self._link.source.close()
        self._read_step()
        self._board.close()
        self.ended, self.died = True, self._answered is None
        if not self.died:
            return
        if self._overdue:
            what = self._overdue
        elif status is None:
            what, self.lost = "the process that loads the workload ended", True
        elif status < 0:
            name = signal.Signals(-status).name
            hint = " (as the system does when memory runs out)" if name == "SIGKILL" else ""
            what = f"its process was killed by {name}{hint}"
        else:
            what = f"its process ended with exit code {status}"
        last = "" if self._overdue else _last_line(said + self.output.text())
        self.cause = what + last


class Household:
    """The nurseries of a race, one for a workload, and the errands that run in them. Use as a context manager.

    Args:
        methods: keys of methods that errands will use; what their first steps need is loaded once.
    """

    def __init__(self, methods: Sequence[str] = ()) -> None:
        self._methods = list(dict.fromkeys(methods))
        self._selector = selectors.DefaultSelector()
        self._nurseries: dict[str, _Nursery] = {}

    def __enter__(self) -> Household:
        return self

    def __exit__(self, *error: object) -> None:
        for source in list(self._nurseries):
            self._nurseries.pop(source).close()
        self._selector.close()

    def start(
        self,
        source: str,
        request: Mapping[str, Any],
        *,
        threads: int,
        cores: Sequence[int] = (),
        seconds: float | None = None,
        memory: int | None = None,
    ) -> Errand:
        """Begin an errand on the workload of a name or file.

        Args:
            source: what `load_workload` takes.
            request: `{"do": ...}` and what that errand needs.
            threads: of torch in its process.
            cores: numbers of the cores that it may use; empty for all.
            seconds: its limit once it has a process; None to end it only where it shows no progress for `SILENCE`, as
                the loading of its workload is.
            memory: bytes that its processes may hold together; None for no limit.
        """
        nursery = self._nurseries.pop(source, None) or _Nursery(self._selector, source, self._methods)
        self._nurseries[source] = nursery  # the one used last stands last
        idle = [s for s, n in self._nurseries.items() if not n.errands and s != source]
        for old in idle[: max(0, len(self._nurseries) - OPEN)]:
            self._nurseries.pop(old).close()
        errand = Errand(self._selector, seconds=seconds, memory=memory)
        nursery.start(errand, {**request, "threads": threads, "cores": list(cores)})
        return errand

    def ask(
        self, source: str, request: Mapping[str, Any], what: str, *, threads: int, seconds: float | None = None
    ) -> Any:
        """Do one errand and wait for its answer.

        Raises:
            RaceError: with its cause, when there is no answer; `what` says what the workload could not be then.
        """
        errand = self.start(source, request, threads=threads, seconds=seconds)
        while not errand.ended:
            self.wait(1.0)
        if errand.died:
            raise RaceError(f"workload {source!r} could not be {what}: {errand.cause}", bad_input=True)
        if errand.cause is not None:
            raise RaceError(errand.cause, bad_input=errand.bad_input)
        return errand.answer

    def wait(self, seconds: float) -> list[Errand]:
        """Wait until an errand ends, at most so long; returns those that did."""
        until = time.monotonic() + seconds
        while True:
            for key, _ in self._selector.select(max(0.0, min(TICK, until - time.monotonic()))):
                key.data()
            ended: list[Errand] = []
            for source, nursery in list(self._nurseries.items()):
                ended += nursery.look()
                if nursery.gone:
                    self._nurseries.pop(source).close()
            if ended or time.monotonic() >= until:
                return ended


class _Nursery:
    """The other end of `child.Nursery`."""

    def __init__(self, selector: selectors.BaseSelector, source: str, methods: Sequence[str]) -> None:
        self._selector, self._source = selector, source
        self.errands: dict[int, Errand] = {}
        self.gone = self._ready = False
        self._number = 0
        self._ended: list[Errand] = []
        self._said = Tail(selector)
        mine, theirs = socket.socketpair()
        settings = {"control": theirs.fileno(), "source": source, "methods": list(methods)}
        with theirs:
            self._process = subprocess.Popen(
                command(settings),
                stdin=subprocess.DEVNULL,
                stdout=self._said.writing,
                stderr=self._said.writing,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env={k: v for k, v in os.environ.items() if k != ADDRESS} | _ONE_THREAD,
            )
        self._said.handed_over()
        self._control = Lines(mine)
        selector.register(mine, selectors.EVENT_READ, self._hear)

    def start(self, errand: Errand, request: Mapping[str, Any]) -> None:
        """Hand an errand over."""
        self._number += 1
        self.errands[self._number] = errand
        errand.hand_over(self._control.source, self._number, request)

    def look(self) -> list[Errand]:
        """Kill what is over its limit; returns what has ended since the last look."""
        if self._process.poll() is not None:
            self._hear()  # what was forked while the workload was loaded may keep its socket open
        for number, errand in list(self.errands.items()):
            if errand.look():
                if errand.pid is None:  # it waits for a workload that does not load
                    self._kill()
                else:
                    with contextlib.suppress(OSError):
                        self._control.source.send(struct.pack("<q", -number))
        ended, self._ended = self._ended, []
        return ended

    def _hear(self) -> None:
        if self.gone:
            return
        ended = self._process.poll() is not None
        for line in self._control.read():
            if "ready" in line:
                self._ready = True
            elif "pid" in line:
                self.errands[line["errand"]].begun(line["pid"])
            else:
                errand = self.errands.pop(line["errand"])
                errand.end(line["status"])
                self._ended.append(errand)
        if self._control.closed or ended:
            self.gone = True
            self._selector.unregister(self._control.source)
            self._process.wait()
            self._kill()  # what is left of its group
            self._said.read()
            for errand in self.errands.values():
                errand.end(None if self._ready else self._process.returncode, "" if self._ready else self._said.text())
            self._ended += self.errands.values()
            self.errands.clear()

    def close(self) -> None:
        """End it with all that it has started."""
        if not self.gone:
            self._selector.unregister(self._control.source)
        self._control.source.close()  # it kills its errands, and ends
        if not self._ready:
            self._kill()
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._kill()
            self._process.wait()
        for errand in self.errands.values():
            errand.stop()
            errand.end(None)
        self._said.close()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _last_line(text: str) -> str:
    """The last line that was printed, as an end of a sentence; of a crash, where in Python it happened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    crash = [i for i, line in enumerate(lines) if line.startswith(("Fatal Python error", "Current thread"))]
    frames = [line for line in lines[crash[-1] :] if line.startswith("File ")] if crash else []
    if frames:
        return f" at {frames[0].removeprefix('File ')}"
    return f"; the last that it printed: {lines[-1][:200]}" if lines else ""


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
