"""Workers of one race, each a process that ends or is killed by itself, for the price of one start of Python.

`python -m tests.referee.crew '{"workload": …, "options": {…}, "workers": [{"folder": …, "environment": {…}}, …]}'`
prints the process number of each worker and, as they end, what each has to say.
"""

from __future__ import annotations

import json
import os
import sys
import traceback

import torch

from downslope.referee import board, protocol, report, results, server  # noqa: F401  (before the fork)
from downslope.referee import worker as taking

taking.TIMING = {"seconds": 0.0, "least_turns": 2}


def main() -> None:
    """Fork, say who is who, and wait."""
    request = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    pids = [start(request, worker) for worker in request["workers"]]
    say({"pids": pids})
    codes = {pid: os.waitstatus_to_exitcode(status) for pid, status in (os.wait() for _ in pids)}
    say({"codes": [codes[pid] for pid in pids]})


def start(request: dict, worker: dict) -> int:
    """One worker in a process, and a group of processes, of its own."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        os.environ.update(worker["environment"])
        result = protocol.race(request["workload"], folder=worker["folder"], **request["options"])
        say({"verdict": result.sentence})
        code = 0
    except BaseException:
        say({"error": traceback.format_exc()})
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def say(content: dict) -> None:
    """One whole line, whoever else writes."""
    os.write(1, (json.dumps(content) + "\n").encode())


if __name__ == "__main__":
    main()
