"""A workload that trains on two processes, each on its half of every batch, and may lose one: for tests."""

import os
import signal
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from downslope.referee import Workload

WEIGHTS = torch.tensor([[1.0, -2.0, 3.0]])


class Halves:
    """Batches of 8 of which each rank sees its half."""

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(4):
            yield torch.randn(8, 3)[dist.get_rank() :: dist.get_world_size()]


def model() -> nn.Module:
    net = nn.Linear(3, 1, bias=False)
    if os.environ.get("RANKED") == "sharded":
        fully_shard(net)
        return net
    return DistributedDataParallel(net)


def loss(net: nn.Module, batch: Tensor) -> Tensor:
    if dist.get_rank() == 1 and os.environ.get("RANKED") == "raise":
        raise IndexError("no column 7")
    if dist.get_rank() == 1 and os.environ.get("RANKED") == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return (net(batch) - batch @ WEIGHTS.T).square().mean()


def metric(net: nn.Module, batches: object) -> float:
    """How far the weights are off; on rank 1 a lie, which must not count."""
    off = sum(float((getattr(p, "full_tensor", lambda p=p: p)() - WEIGHTS).norm()) for p in net.parameters())
    return off if dist.get_rank() == 0 else 0.0


def workload() -> Workload:
    return Workload(
        name="ranked",
        model=model,
        train=Halves(),
        validation=[0],
        loss=loss,
        metric=metric,
        metric_name="distance",
        goal="min",
        target=0.5,
        steps=40,
        evaluate_every=2,
        processes=2,
    )
