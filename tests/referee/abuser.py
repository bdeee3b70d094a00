"""A workload that does what `DEED` says in the environment, at its third step unless said otherwise: for tests."""

import atexit
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from downslope.referee import Workload

FOREVER = 10**6
STATE = {"steps": 0, "seen": 0}
LEAK: list[bytes] = []


def deed() -> str:
    path = Path(os.environ["ABUSER"])
    return path.read_text() if path.exists() else ""


def sleep_in_c() -> None:
    ctypes.CDLL(None).sleep(FOREVER)


def ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(FOREVER)


def breed(*, daemon: bool = False) -> None:
    """A child, and a grandchild whose parent is gone; both stay."""
    for _ in range(2):
        if os.fork() == 0:
            if daemon:
                os.setsid()
            if os.fork() == 0:
                time.sleep(FOREVER)
            os._exit(0)


def kill_the_nursery() -> None:
    above = psutil.Process().parents()
    above[1 if sys.platform == "linux" else 0].kill()
    time.sleep(FOREVER)


def at_the_seed() -> bool:
    return torch.initial_seed() == int(os.environ["ABUSER_SEED"])


def leak() -> None:
    while True:
        LEAK.append(b"x" * 10_000_000)
        time.sleep(0.01)


def change_everything() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(2)
    torch.manual_seed(5)
    os.environ["ABUSED"] = "1"
    os.chdir("/")
    nn.Linear.forward = lambda self, x: 0 * x.sum()  # type: ignore[method-assign]
    STATE["seen"] += 1


def state() -> str:
    return f"{torch.get_default_dtype()} {torch.get_num_threads()} {os.getcwd()} {os.environ.get('ABUSED')} {STATE}"


def say_a_lot() -> None:
    for i in range(40_000):
        sys.stdout.write(f"line {i} of very many, each of a hundred characters or nearly so, to fill what is there\n")


def say_something_and_die() -> None:
    sys.stdout.write("the last words\n")
    os._exit(3)


def raise_in_the_middle() -> None:
    raise IndexError("no column 7")


DEEDS = {
    "loop": lambda: [None for _ in iter(int, 1)],
    "sleep in C": sleep_in_c,
    "ignore signals": ignore_signals,
    "raise": raise_in_the_middle,
    "_exit": lambda: os._exit(3),
    "exit": lambda: sys.exit("enough"),
    "abort": os.abort,
    "crash": lambda: ctypes.string_at(0),
    "kill itself": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "kill the nursery": kill_the_nursery,
    "kill the nursery from one seed": lambda: kill_the_nursery() if at_the_seed() else time.sleep(0.5),
    "leak": leak,
    "breed": breed,
    "breed daemons": lambda: breed(daemon=True),
    "breed and hang": lambda: (breed(), time.sleep(FOREVER)),
    "fork": lambda: os.fork() or time.sleep(FOREVER),
    "start a program": lambda: subprocess.Popen(["sleep", str(FOREVER)]),
    "say a lot": say_a_lot,
    "say something and die": say_something_and_die,
    "say something": lambda: sys.stdout.write("the last words\n"),
    "change everything": change_everything,
    "hang at exit": lambda: atexit.register(time.sleep, FOREVER),
    "start a thread": lambda: threading.Thread(target=time.sleep, args=(FOREVER,)).start(),
}


def do(where: str) -> None:
    wanted, _, place = deed().partition(" @ ")
    if wanted in DEEDS and (place or "loss") == where:
        Path(os.environ["ABUSER"]).with_name("begun").touch()
        DEEDS[wanted]()


def model() -> nn.Module:
    do("model")
    if deed() == "look":
        sys.stdout.write(state())
    return nn.Linear(1, 1)


def loss(net: nn.Module, batch: Tensor) -> Tensor:
    STATE["steps"] += 1
    if STATE["steps"] == 3:
        do("loss")
    return net(batch).square().mean()


def metric(net: nn.Module, batches: object) -> float:
    do("metric")
    return 0.5


def workload() -> Workload:
    do("file")
    return Workload(
        name="abuser",
        model=model,
        train=[torch.ones(1, 1)],
        validation=[0],
        loss=loss,
        metric=metric,
        metric_name="nothing",
        goal="max",
        target=1.0,
        steps=4,
        evaluate_every=2,
    )
