"""The toy with a target out of reach, so that every trial takes all its steps, and traces in the folder `TRACES`.

Every training run that ends adds a line to `ended`. A run waits in its middle while as many have ended as the file
`gate` says; that of the process told to be the victim waits for ever, once.
"""

import os
import time
from dataclasses import replace
from pathlib import Path

from tests.referee import toy_workload

STEPS, EVERY = 30, 10


def accuracy(model, batches) -> float:
    model.evaluated = getattr(model, "evaluated", -1) + 1
    where = Path(os.environ["TRACES"])
    if model.evaluated == 1:
        if "VICTIM" in os.environ and not (where / "victim").exists():
            (where / "victim").write_text(str(os.getpid()))
            while True:
                time.sleep(60)
        while ended(where) >= int((where / "gate").read_text() or 0):
            time.sleep(0.01)
    if model.evaluated == STEPS // EVERY:
        with (where / "ended").open("a") as file:
            file.write(f"{os.getpid()}\n")
    return toy_workload.accuracy(model, batches)


def ended(where: Path) -> int:
    return len((where / "ended").read_text().splitlines())


def workload():
    return replace(
        toy_workload.workload(), name="counted", metric=accuracy, target=1.5, steps=STEPS, evaluate_every=EVERY
    )
