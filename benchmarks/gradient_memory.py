"""Memory of gradients in the ordinary loop and stepping inside backward: `python -m benchmarks.gradient_memory`.

"Gradients" is the most bytes that the `.grad` of all parameters held at one time, counted whenever one is complete.
"Peak" is the most bytes that torch had allocated in forward, backward and step, above what stood before them
(parameters and state): activations, gradients and the temporaries of the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch._C._profiler import _EventType
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile, record_function

import downslope as ds

MIB = 2**20


class Tied(nn.Module):
    """A language model whose embedding is its head, so that this gradient has two parts, early and late."""

    def __init__(self, tokens: int, width: int, depth: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return F.linear(x, self.embedding.weight)


def bytes_of(tensors: Iterator[Tensor | None]) -> int:
    """Bytes of the tensors that are there."""
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def peak_allocation(recorded: profile, part: str) -> int:
    """The most bytes allocated at one time during the named part of a profile, above those at its start.

    The profile must begin before the first allocation: it does not know the sizes of older blocks when they are freed.
    """
    pending: list[Any] = list(recorded.profiler.kineto_results.experimental_event_tree())  # type: ignore[union-attr]
    changes, start = [], 0
    while pending:
        event = pending.pop()
        pending.extend(event.children)
        if event.tag == _EventType.Allocation:
            changes.append((event.start_time_ns, event.extra_fields.alloc_size))
        elif event.name == part:
            start = event.start_time_ns
    before = sum(change for time, change in changes if time < start)
    held = most = before
    for _, change in sorted(each for each in changes if each[0] >= start):
        held += change
        most = max(most, held)
    return int(most - before)


def measure(build: Callable[[], nn.Module], x: Tensor, in_backward: bool) -> tuple[list[int], int, int]:
    """The bytes of the parameters, the most bytes of gradients at one time, and the peak, of the third step."""
    seen = []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        model = build()
        for p in model.parameters():
            p.register_post_accumulate_grad_hook(lambda _: seen.append(bytes_of(q.grad for q in model.parameters())))
        opt = ds.AdamW(model, lr=1e-3)
        if in_backward:
            opt.step_in_backward(model)
        for name in ("first", "second", "third"):
            with record_function(name):
                model(x).square().mean().backward()
                opt.step()
                opt.zero_grad()
    return [bytes_of(iter([p])) for p in model.parameters()], max(seen), peak_allocation(recorded, "third")


def main() -> None:
    """Print the table."""
    table = Table("model", "parameters", "two largest", "loop", "gradients", "peak", title="MiB, AdamW, float32, CPU")
    models = {
        "48 linear layers of 512": (
            lambda: nn.Sequential(*(nn.Linear(512, 512) for _ in range(48))),
            torch.randn(64, 512),
        ),
        "tied embedding 8000 x 512, 24 linear layers": (
            lambda: Tied(8000, 512, 24),
            torch.randint(8000, (64,)),
        ),
    }
    for name, (build, x) in models.items():
        for in_backward in (False, True):
            sizes, gradients, peak = measure(build, x, in_backward)
            numbers = [sum(sizes), sum(sorted(sizes)[-2:]), gradients, peak]
            whole, two, held, most = (f"{n / MIB:.1f}" for n in numbers)
            table.add_row(name, whole, two, "step in backward" if in_backward else "ordinary", held, most)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
