"""A model sharded over processes: `torchrun --nproc-per-node 2 examples/fsdp.py` (on CPU, with gloo)."""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

import downslope as ds


def train(steps: int = 20) -> float:
    """Train a sharded model; returns the last loss of this process's batches."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    fully_shard(model)
    opt = ds.Muon(model, lr=0.02)  # after fully_shard, as it replaces the parameters
    generator = torch.Generator().manual_seed(dist.get_rank())  # every process has its own data
    for _ in range(steps):
        x = torch.randn(32, 16, generator=generator)
        loss = (model(x) - x.sin().sum(1, keepdim=True)).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    if dist.get_rank() == 0:
        print(opt.manifest())
    return loss.item()


if __name__ == "__main__":
    dist.init_process_group("gloo")
    print(f"process {dist.get_rank()}: loss {train():.3f}")
    dist.destroy_process_group()
