"""The byte bound of a method on a set: bytes that its step must move, over the bandwidth of plain kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.bandwidth import Bandwidth
from benchmarks.rivals import ours
from benchmarks.traffic import Traffic, traffic
from downslope import ArgumentError

__all__ = ["Bound", "bound_of"]

SMALL = 0.01
"""A state below this share of its parameter's bytes (a norm, a row's mean) counts in bytes, not as a stream."""
HIDDEN = {"h.0.mlp.c_fc.weight": (160, 192)}
"""Beside the probe where a rule insists on a hidden matrix."""


@dataclass(frozen=True)
class Bound:
    """What a step on a set moves.

    Args:
        streams: bytes by (streams read, streams written).
        kinds: the traffic of each kind of parameter, and how many numbers are in parameters of that kind.
    """

    streams: dict[tuple[int, int], int]
    kinds: tuple[tuple[Traffic, int], ...]

    @property
    def nbytes(self) -> int:
        """Bytes that a step must move."""
        return sum(self.streams.values())

    @property
    def main(self) -> Traffic:
        """The traffic of most of the numbers."""
        return max(self.kinds, key=lambda kind: kind[1])[0]

    def seconds(self, kernels: Mapping[tuple[int, int], list[float]], plain: Bandwidth) -> list[float]:
        """The bound in every round, from the seconds that the plain kernels took in it."""
        rounds = len(next(iter(kernels.values())))
        return [
            sum(moved * kernels[shape][i] / plain.nbytes(*shape) for shape, moved in self.streams.items())
            for i in range(rounds)
        ]


def bound_of(key: str, opt: Any, parameters: Mapping[str, nn.Parameter]) -> Bound:
    """The bound of an optimizer that has taken a step, with its state as it is stored.

    Raises:
        ArgumentError: if the method cannot step a probe.
    """
    found: dict[Any, Traffic] = {}
    numbers: Counter[Any] = Counter()
    streams: Counter[tuple[int, int]] = Counter()
    for row in opt.manifest():
        p = parameters[row.parameter]
        kind = (row.rule, p.ndim > 1)
        if kind not in found:
            found[kind] = _probed(key, row.parameter, p.shape)
        numbers[kind] += p.numel()
        for one in found[kind].passes:
            sizes = [[_stored(name, p, opt.state[p]) for name in names] for names in (one.reads, one.writes)]
            reads, writes = (sum(size >= SMALL * p.nbytes for size in each) for each in sizes)
            streams[reads, writes] += sum(map(sum, sizes))
    return Bound(dict(streams), tuple((found[kind], n) for kind, n in numbers.items()))


def _stored(name: str, p: Tensor, state: Mapping[str, Any]) -> int:
    """Bytes of a stream: of a state with all that is stored for it, such as the scales of its blocks."""
    if name in ("p", "grad"):
        return p.nbytes
    return sum(x.nbytes for key, x in state.items() if isinstance(x, Tensor) and key in (name, f"{name}.scale"))


def _probed(key: str, name: str, shape: torch.Size) -> Traffic:
    small = (192,) * len(shape) if len(shape) < 2 else (160, 192) if shape[0] <= shape[1] else (192, 160)
    try:
        return _watch(key, {name: small})
    except ArgumentError:
        return _watch(key, {name: small} | HIDDEN)


def _watch(key: str, shapes: Mapping[str, tuple[int, ...]]) -> Traffic:
    rng = torch.Generator().manual_seed(0)
    parameters = {}
    for name, shape in shapes.items():
        parameters[name] = p = nn.Parameter(torch.randn(shape, generator=rng) * 0.02)
        p.grad = torch.randn(shape, generator=rng) * 1e-3
    lane = ours(key, parameters, execution="reference")
    (step,) = lane.variants.values()
    first = next(iter(parameters.values()))
    state: Callable[[], Mapping[str, Any]] = lambda: lane.optimizer.state[first]  # noqa: E731
    return traffic(step, first, state)
