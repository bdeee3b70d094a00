"""Step times: a method, the plain kernels of its byte bound and its rivals, interleaved in one run."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.bandwidth import Bandwidth, compiler
from benchmarks.bound import Bound, bound_of
from benchmarks.clock import Spread, first_call, ratio, take_turns
from benchmarks.rivals import Lane, Unavailable, executor, lanes, ours
from benchmarks.sets import Tensors
from downslope import ArgumentError, card

__all__ = ["NOISY", "Rival", "Steps", "measure_steps"]

NOISY = 0.15
"""A plain kernel whose quartiles are further apart than this share of its median says that the machine is not quiet."""

LEAST = 2**20
"""Bytes of parameters below which there is no byte bound: starting threads takes longer than moving the bytes."""

Calls = Mapping[str, Callable[[], object]]


@dataclass
class Rival:
    """Another optimizer on the same parameters: seconds per step, and how many times ours that is."""

    seconds: Spread
    slower: Spread
    first_step: float
    state_bytes: int


@dataclass
class Steps:
    """The step times of one method on one set."""

    set: str
    method: str
    scope: str
    executor: str
    numel: int
    tensors: int
    seconds: Spread
    rounds: int
    first_step: float
    state_bytes: int
    traffic: str | None = None
    depth: int = 1
    matrix: bool = False
    bound_bytes: int | None = None
    bound: Spread | None = None
    bandwidth: float | None = None
    over_bound: Spread | None = None
    noise: float = 0.0
    rivals: dict[str, Rival] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass
class _Pool:
    """Rounds of several runs, put together."""

    ours: list[float] = field(default_factory=list)
    kernels: dict[tuple[int, int], list[float]] = field(default_factory=dict)


def measure_steps(
    shape_set: str,
    tensors: Tensors,
    key: str,
    *,
    execution: str,
    seconds: float,
    rivals: bool = True,
    compiled: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Steps | str:
    """Time one method on one set; a line that says why not, if it cannot be.

    Ours and the kernels run beside each library in turn, so no more than two optimizers are in memory.

    Args:
        shape_set: key of the set.
        tensors: its parameters and gradients.
        key: of the method.
        execution: the executor asked for.
        seconds: of rounds with each library.
        rivals: whether others run too.
        compiled: whether also those that torch.compile makes.
        options: more keywords of our method, such as `state_dtype`.
    """
    tensors.restore()
    try:
        mine = ours(key, tensors.parameters, execution=execution, **(options or {}))
        first = first_call(mine.variants["downslope"])
    except (ArgumentError, Unavailable) as error:
        return f"{key}: {error}"
    result, bound, plain = _start(shape_set, tensors, key, mine, first)
    shapes = list(bound.streams) if compiler() and tensors.parameter_bytes >= LEAST else []
    calls: dict[str, Callable[[], object]] = {str(shape): plain.kernel(*shape) for shape in shapes}
    calls |= mine.variants
    pool = _Pool(kernels={shape: [] for shape in shapes})
    for others in _batches(result, key, tensors, compiled) if rivals else [None]:
        _warm_up(others.variants if others else {}, mine.variants, tensors)
        found = take_turns(calls | (others.variants if others else {}), tensors.restore, seconds=seconds)
        pool.ours += found["downslope"]
        for shape in shapes:
            pool.kernels[shape] += found[str(shape)]
        for label in others.variants if others else ():
            rival = result.rivals[label]
            rival.seconds, rival.slower = Spread.of(found[label]), ratio(found[label], found["downslope"])
        del others
    _finish(result, pool, bound if shapes else None, plain)
    return result


def _start(shape_set: str, tensors: Tensors, key: str, mine: Lane, first: float) -> tuple[Steps, Bound, Bandwidth]:
    rows = list(mine.optimizer.manifest())
    result = Steps(
        set=shape_set,
        method=key,
        scope=card(key).scope,
        executor=executor(mine.optimizer),
        numel=tensors.numel,
        tensors=len(rows),
        seconds=Spread(first, first, first),
        rounds=0,
        first_step=first,
        state_bytes=mine.state_bytes,
    )
    bound = bound_of(key, mine.optimizer, tensors.parameters)
    result.traffic, result.depth, result.matrix = str(bound.main), bound.main.depth, bound.main.matrix
    result.bound_bytes = bound.nbytes
    return result, bound, Bandwidth(tensors.numel)


def _batches(result: Steps, key: str, tensors: Tensors, compiled: bool) -> Iterator[Lane | None]:
    """Each rival in turn, alone in memory; None once if there is none."""
    seen = False
    for library, make in lanes(key, tensors, compiled=compiled):
        try:
            tensors.restore()
            lane = make()
            for label, step in list(lane.variants.items()):
                try:
                    took = first_call(step)
                except Exception as error:
                    result.notes.append(f"{label} left out: {_line(error)}")
                    del lane.variants[label]
                    continue
                nothing = Spread(0.0, 0.0, 0.0)
                result.rivals[label] = Rival(nothing, nothing, took, lane.state_bytes)
        except Unavailable as error:
            result.missing.append(str(error))
            continue
        except Exception as error:
            result.notes.append(f"{library} left out: {_line(error)}")
            continue
        if lane.variants:
            seen = True
            yield lane
        del lane
        gc.collect()
    if not seen:
        yield None


def _warm_up(theirs: Calls, mine: Calls, tensors: Tensors) -> None:
    """The second step of everybody; rivals that compile do so once more where they have a first step of its own."""
    for call in (*theirs.values(), *mine.values()):
        tensors.restore()
        call()


def _finish(result: Steps, pool: _Pool, bound: Bound | None, plain: Bandwidth) -> None:
    result.seconds, result.rounds = Spread.of(pool.ours), len(pool.ours)
    if bound is None:
        return
    limit = bound.seconds(pool.kernels, plain)
    result.bound, result.over_bound = Spread.of(limit), ratio(pool.ours, limit)
    result.bandwidth = bound.nbytes / result.bound.median
    result.noise = max(Spread.of(values).relative for values in pool.kernels.values())


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:160] if text else 'no message'}"
