"""Ranks: an errand of a workload that trains on several processes, started as `torchrun` starts them.

Every rank is a fresh interpreter with torchrun's environment and a `torch.distributed` group (gloo on CPU, NCCL on
GPUs), which stands before the workload is loaded. All do the same; the answer and the points of rank 0 count. When one
rank fails all are ended, and the cause names the one that failed first.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from multiprocessing import reduction
from typing import Any

from downslope.referee.errors import RaceError

__all__ = ["launch"]


class RankBroke(Exception):
    """A trial broke on one rank; its message is the cause."""


class Descriptor:
    """A file descriptor that goes along to the processes that are spawned with it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (reduction.DupFd(self.number),)


def _arrived(duplicate: Any) -> Descriptor:
    return Descriptor(duplicate.detach())


def launch(source: str, processes: int, request: Mapping[str, Any], link: int, board: int) -> dict[str, Any]:
    """Do an errand on so many processes; returns the answer of rank 0.

    Raises:
        RaceError: says which rank failed first, and how.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        start_method="spawn",
    )
    try:
        answers = elastic_launch(config, _rank)(source, json.dumps(request), Descriptor(link), Descriptor(board))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise RaceError(f"rank {rank} of {processes}: {_how(failure)}") from error
    answer: dict[str, Any] = json.loads(answers[0])
    return answer


def _how(failure: Any) -> str:
    """How a rank failed, in words."""
    if failure.exitcode < 0:
        return f"its process was killed by {failure.signal_name()}"
    message = failure.message.get("message", "") if isinstance(failure.message, dict) else str(failure.message)
    if not failure.error_file_data or not message:
        return f"its process ended with exit code {failure.exitcode}"
    return str(message).removeprefix(f"{RankBroke.__name__}: ").splitlines()[0]


def _rank(source: str, request_text: str, link: Descriptor, board: Descriptor) -> str | None:
    """One rank; returns its answer as JSON."""
    import torch
    import torch.distributed as dist

    from downslope.referee import errands
    from downslope.referee.child import Line
    from downslope.referee.workload import load_workload

    request = json.loads(request_text)
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(max(1, request["threads"] // count))
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group()
    line = Line(link.number, board.number)
    answer = errands.run(load_workload(source), request, line.progress if rank == 0 else _silent)
    if answer.get("cause"):
        raise RankBroke(answer["cause"])
    dist.barrier()
    dist.destroy_process_group()
    return json.dumps(answer) if rank == 0 else None


def _silent(step: int, point: Any | None) -> None:
    """Only rank 0 tells how far it is."""
