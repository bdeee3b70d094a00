"""Tasks in processes of their own: `run("memory:peak", …)` calls `benchmarks.memory.peak(…)` in a new interpreter."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["TaskError", "run"]

_MARK = "result: "


class TaskError(Exception):
    """A task failed; the message is the last line of what it said."""


def run(task: str, *, environment: Mapping[str, str] | None = None, timeout: float = 300.0, **arguments: Any) -> Any:
    """What a task returns, as JSON.

    Args:
        task: `module:function` in this package.
        environment: variables on top of this process's.
        timeout: seconds.
        arguments: of the function, as JSON; `threads` are set in the new process before.

    Raises:
        TaskError: if the task raised.
    """
    import torch

    root = Path(__file__).parents[1]
    paths = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    request = json.dumps({"task": task, "threads": torch.get_num_threads(), "arguments": arguments})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.fresh"],
        input=request,
        env={**os.environ, "PYTHONPATH": paths, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return json.loads(line.removeprefix(_MARK))
    said = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
    raise TaskError(re.sub(r"^(?:\w+\.)*(?:Unavailable: )?", "", said[-1])[:300])


def _main() -> None:
    request = json.load(sys.stdin)
    import torch

    torch.set_num_threads(request["threads"])
    module, function = request["task"].split(":")
    result = getattr(importlib.import_module(f"benchmarks.{module}"), function)(**request["arguments"])
    sys.stdout.write(f"{_MARK}{json.dumps(result)}\n")


if __name__ == "__main__":
    _main()
