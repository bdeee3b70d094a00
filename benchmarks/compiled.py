"""The compiled executor against torch's fused AdamW: python -m benchmarks.compiled [--scale 0.1] [--rounds 30]

Steps are interleaved in one process (fused, ours, fused, ours, …), so that both see the same machine, and reported as
medians and as ratios of one run. On CUDA, steps are timed to the end of the work on the device; without it, on the CPU.
`host` is the time until `step()` returns: where it is the larger part, the device waits for Python.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import downslope as ds

METHODS: dict[str, dict[str, float]] = {
    "adamw": {"lr": 1e-4, "weight_decay": 0.1},
    "adabelief": {"lr": 1e-4, "weight_decay": 0.1},
    "diffgrad": {"lr": 1e-4},
    "lion": {"lr": 1e-5, "weight_decay": 0.1},
}


def gpt2(scale: float) -> list[tuple[int, ...]]:
    """The 148 tensors of GPT-2 small, 124M numbers at scale 1."""
    d = max(8, round(768 * scale**0.5))
    block = [(d,), (d,), (d, 3 * d), (3 * d,), (d, d), (d,), (d,), (d,), (d, 4 * d), (4 * d,), (4 * d, d), (d,)]
    return [
        (max(8, round(50257 * scale**0.5)), d),
        (1024, d),
        *(shape for _ in range(12) for shape in block),
        (d,),
        (d,),
    ]


def sets(scale: float) -> Iterator[tuple[str, list[tuple[int, ...]]]]:
    """The three sets of shapes by name."""
    yield "GPT-2 small", gpt2(scale)
    yield "1,000 small tensors", [((64, 64), (256,), (128, 32), (64,), (1024,))[i % 5] for i in range(1000)]
    yield "one tensor of 32M", [(max(1, round(8192 * scale)), 4096)]


def parameters(shapes: list[tuple[int, ...]], device: str) -> list[nn.Parameter]:
    """Random parameters with random gradients."""
    rng = torch.Generator(device=device).manual_seed(0)
    made = [nn.Parameter(0.02 * torch.randn(shape, generator=rng, device=device)) for shape in shapes]
    for p in made:
        p.grad = 1e-3 * torch.randn(p.shape, generator=rng, device=device)
    return made


def timed(step: Callable[[], object], device: str) -> tuple[float, float]:
    """Milliseconds until a step returns and until its work is done."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    step()
    returned = time.perf_counter()
    wait()
    return 1e3 * (returned - start), 1e3 * (time.perf_counter() - start)


def race(shapes: list[tuple[int, ...]], device: str, rounds: int) -> Iterator[tuple[str, float, float, float, float]]:
    """Of each contestant: seconds of the first step, median milliseconds of host and step, the ratio to torch's."""
    params = parameters(shapes, device)
    contestants: dict[str, torch.optim.Optimizer] = {}
    contestants |= {"torch fused AdamW": torch.optim.AdamW(params, lr=1e-4, weight_decay=0.1, fused=True)}
    contestants |= {key: ds.make(key, params, execution="compiled", **hyper) for key, hyper in METHODS.items()}
    first = {name: timed(opt.step, device)[1] / 1e3 for name, opt in contestants.items()}
    for opt in contestants.values():
        opt.step()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, opt in contestants.items():
            found[name].append(timed(opt.step, device))
    fused = statistics.median(whole for _, whole in found["torch fused AdamW"])
    for name, times in found.items():
        host, whole = (statistics.median(each) for each in zip(*times, strict=True))
        yield name, first[name], host, whole, whole / fused


def main() -> None:
    """Print one table a set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the parameters, for a small machine")
    parser.add_argument("--rounds", type=int, default=30)
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    console = Console()
    console.print(f"torch {torch.__version__} on {name}; medians of {given.rounds} interleaved steps")
    for title, shapes in sets(given.scale):
        numel = sum(torch.Size(shape).numel() for shape in shapes)
        table = Table(title=f"{title}: {len(shapes)} tensors, {numel:,} parameters", title_justify="left")
        for heading in ("", "first step, s", "host, ms", "step, ms", "x fused"):
            table.add_column(heading, justify="right" if heading else "left")
        for method, first, host, whole, ratio in race(shapes, device, given.rounds):
            table.add_row(method, f"{first:.1f}", f"{host:.3f}", f"{whole:.3f}", f"{ratio:.2f}")
        console.print(table)


if __name__ == "__main__":
    main()
