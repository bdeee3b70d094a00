"""Child: the process that a race starts to have its errands done, and those that this one starts in turn.

The nursery loads torch and a workload, with one thread, and then forks a fresh process for every errand: it costs
milliseconds, and nothing that an errand does is there for the next one. Where forking is not safe (another system than
Linux, a GPU, a workload that has started threads) every errand gets a fresh interpreter instead.

Two kinds of messages, none of them pickled. On the nursery's socket eight bytes ask for an errand, and carry its three
descriptors, or to kill one (a negative number); JSON lines say which process an errand got and how it ended. On the
errand's own socket a line of JSON says what to do; points of the curve and the answer come back as lines. The number of
steps taken stands in a file of eight bytes that both sides map.

On Linux every errand has a keeper, a process between the nursery and itself that does nothing but wait: what an errand
starts cannot leave its keeper, which kills all that is left when the errand ends, and the errand when it is told to.

Whoever starts the nursery holds the other end of its socket: when that closes, everything here is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import faulthandler
import gc
import json
import mmap
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from downslope.referee.errors import RaceError

__all__ = ["Line", "command", "main"]

_BOOT = "import sys; sys.path[:] = sys.argv.pop(1).split(chr(10)); from downslope.referee import child; child.main()"
_PDEATHSIG, _DUMPABLE, _SUBREAPER = 1, 4, 36
_KEPT = sys.platform == "linux"
"""Whether every errand has a keeper."""


class Line:
    """An errand's way back: the request comes in, steps, points and the answer go out."""

    def __init__(self, link: int, board: int) -> None:
        self._socket = socket.socket(fileno=link)
        self._file = self._socket.makefile("r", encoding="utf-8")
        self.board, self._steps = board, mmap.mmap(board, 8)

    def request(self) -> dict[str, Any]:
        """What to do."""
        found: dict[str, Any] = json.loads(self._file.readline())
        return found

    def progress(self, step: int, point: Any | None) -> None:
        """Tell how many steps are done, and the point of the curve where there is one."""
        struct.pack_into("<q", self._steps, 0, step)
        if point is not None:
            self.send({"point": [point.step, point.loss, point.metric, point.seconds]})

    def send(self, content: Mapping[str, Any]) -> None:
        """Send one line."""
        self._socket.sendall((json.dumps(content) + "\n").encode())

    @property
    def fileno(self) -> int:
        """The descriptor, for a process that goes on in this one's place."""
        return self._socket.fileno()


class Shelf:
    """A workload that is loaded at first use; an error of loading comes back at every use."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._found: Any = None

    def get(self) -> Any:
        """The workload.

        Raises:
            ValueError: in one sentence, when it cannot be loaded.
        """
        if self._found is None:
            from downslope.referee.workload import load_workload

            try:
                self._found = load_workload(self.source)
            except Exception as error:
                self._found = error
        if isinstance(self._found, Exception):
            raise self._found
        return self._found


class Nursery:
    """Starts errands, reaps them, and leaves none behind."""

    def __init__(self, control: socket.socket, source: str, methods: list[str]) -> None:
        self.control, self.shelf = control, Shelf(source)
        self.running: dict[int, int] = {}  # process by errand
        _with_libc(_SUBREAPER, 1)
        self.forks = _may_fork() and self._load(methods)
        _with_libc(_PDEATHSIG, 0)
        self._wake, self._woken = os.pipe()
        os.set_blocking(self._woken, False)
        signal.set_wakeup_fd(self._woken)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)

    def _load(self, methods: list[str]) -> bool:
        """Load all that errands share; whether they may be forked from this process afterwards."""
        _with_libc(_PDEATHSIG, signal.SIGKILL)  # the workload's file may never return
        import torch

        from downslope.referee.errands import warm_up
        from downslope.referee.trial import unchanged

        torch.set_num_threads(1)
        with unchanged():
            for method in methods:
                with contextlib.suppress(Exception):
                    warm_up(method)
        with contextlib.suppress(Exception):
            self.shelf.get()
        gc.collect()
        gc.freeze()
        return len(os.listdir("/proc/self/task")) == 1 and not torch.cuda.is_initialized()

    def serve(self) -> None:
        """Until the other end closes."""
        self._tell({"ready": True})
        try:
            while True:
                ready, _, _ = select.select([self.control.fileno(), self._wake], [], [])
                if self._wake in ready:
                    os.read(self._wake, 4096)
                self._reap()
                if self.control.fileno() in ready:
                    message, descriptors, _, _ = socket.recv_fds(self.control, 8, 3)
                    if len(message) < 8:
                        return
                    (number,) = struct.unpack("<q", message)
                    if number < 0:
                        _kill(self.running.get(-number))
                    else:
                        self._start(number, descriptors)
        finally:
            for pid in self.running.values():
                _kill(pid)
            _clear_away()

    def _start(self, number: int, descriptors: list[int]) -> None:
        link, board, output = descriptors
        pid = os.fork() if self.forks else self._fresh(link, board, output)
        if pid == 0:
            os.setsid()
            self._become_errand(link, board, output)
        for descriptor in descriptors:
            os.close(descriptor)
        self.running[number] = pid
        self._tell({"errand": number, "pid": pid})

    def _fresh(self, link: int, board: int, output: int) -> int:
        settings = {"source": self.shelf.source, "link": link, "board": board}
        process = subprocess.Popen(
            command(settings),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(link, board),
            start_new_session=True,
        )
        process.returncode = 0  # this process reaps by itself
        return process.pid

    def _become_errand(self, link: int, board: int, output: int) -> NoReturn:
        """Go on as the errand, without what belongs to the nursery."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, place in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(descriptor, place)
        for descriptor in (self.control.fileno(), self._wake, self._woken, nothing, output):
            os.close(descriptor)
        atexit._clear()
        _do(self.shelf, link, board)

    def _reap(self) -> None:
        """Tell of errands that have ended."""
        for number, pid in list(self.running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                _kill(pid)
                del self.running[number]
                self._tell({"errand": number, "status": os.waitstatus_to_exitcode(status)})

    def _tell(self, content: Mapping[str, Any]) -> None:
        self.control.sendall((json.dumps(content) + "\n").encode())


def command(settings: Mapping[str, Any]) -> list[str]:
    """A new interpreter that runs `main`: with the caller's path, so that the current folder hides no module."""
    return [sys.executable, "-u", "-c", _BOOT, "\n".join(map(str, sys.path)), json.dumps(settings)]


def main() -> None:
    """Run a nursery, or one errand in a fresh interpreter."""
    settings = json.loads(sys.argv[1])
    if "link" in settings:
        _do(Shelf(settings["source"]), settings["link"], settings["board"])
    Nursery(socket.socket(fileno=settings["control"]), settings["source"], settings["methods"]).serve()
    os._exit(0)  # whatever the workload has left running in this process


def _do(shelf: Shelf, link: int, board: int) -> NoReturn:
    """Do one errand, send its answer, and end this process whatever is still going on in it."""
    if _KEPT:
        _keep()
    for name in ("stdout", "stderr"):
        number = 1 if name == "stdout" else 2
        setattr(sys, name, open(number, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False))  # noqa: SIM115
    faulthandler.enable(2)
    _with_libc(_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # when memory runs out, this is what is to go
    line = Line(link, board)
    request = line.request()
    try:
        answer = {"answer": _answer(shelf, request, line)}
    except BaseException as error:
        answer = refusal(error)
    with contextlib.suppress(OSError):
        line.send(answer)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(0)


def _keep() -> None:
    """Go on in a child. This process waits for it, kills all that it has left, and ends as it did."""
    awaited = {signal.SIGCHLD, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    _with_libc(_SUBREAPER, 1)
    _with_libc(_PDEATHSIG, signal.SIGTERM)
    errand = os.fork()
    if errand == 0:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    ended = status = 0
    while not ended:
        if signal.sigwait(awaited) == signal.SIGTERM:
            os.kill(errand, signal.SIGKILL)
        ended, status = os.waitpid(errand, os.WNOHANG)
    _clear_away()
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        _with_libc(_DUMPABLE, 0)  # the errand's core is enough
        with contextlib.suppress(OSError):  # SIGKILL is as it is
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.kill(os.getpid(), -code)
    os._exit(code)


def _answer(shelf: Shelf, request: Mapping[str, Any], line: Line) -> dict[str, Any]:
    import torch

    from downslope.referee import errands

    if request["cores"]:
        os.sched_setaffinity(0, request["cores"])
    os.environ["OMP_NUM_THREADS"] = str(request["threads"])
    torch.set_num_threads(request["threads"])
    workload = shelf.get()
    if workload.processes > 1 and request["do"] != "card":
        from downslope.referee.ranks import launch

        return launch(shelf.source, workload.processes, request, line.fileno, line.board)
    return errands.run(workload, request, line.progress)


def refusal(error: BaseException) -> dict[str, Any]:
    """What is sent in place of an answer."""
    if isinstance(error, RaceError):
        return {"error": str(error), "bad_input": error.bad_input}
    from downslope.referee.workload import WorkloadError

    if isinstance(error, WorkloadError):
        return {"error": str(error), "bad_input": True}
    text = str(error).strip().splitlines()
    return {"error": f"{type(error).__name__}: {text[0] if text else '(no message)'}", "bad_input": False}


def _may_fork() -> bool:
    """Whether a process with torch may be forked here: a GPU's runtime and other systems' libraries do not survive."""
    if sys.platform != "linux":
        return False
    import torch

    return not torch.accelerator.is_available() if hasattr(torch, "accelerator") else not torch.cuda.is_available()


def _with_libc(option: int, value: int) -> None:
    """`prctl`, where there is one."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _kill(pid: int | None) -> None:
    """Kill an errand and its group, or have its keeper do so."""
    if pid is not None:
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGTERM if _KEPT else signal.SIGKILL)


def _clear_away() -> None:
    """Kill all that this process has started; what that had started comes to light then, and is killed in turn."""
    import psutil

    while left := psutil.Process().children():
        for child in left:
            with contextlib.suppress(psutil.Error):
                child.kill()
        for child in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child.pid, 0)
