"""How often the referee's verdicts are wrong, and how often they see what is there: `make calibrate`.

Races with a known truth are judged as real ones are: simulated arrivals (`benchmarks.simulated`) and tiny networks
that really train (`benchmarks.tiny`). Prints the share of races with any wrong word, with its interval, against the
level, and the power on a planted difference; writes all of it to a JSON file.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks import tiny
from benchmarks.simulated import Setting, claims, race, wrong
from downslope.referee.verdict import LEVEL, Judgement

__all__ = ["main"]

console = Console()

TIED = (1.0, 1.0)
REPEATS = 10
"""A row above the level is repeated with so many times as many races: of a hundred rows, a few are above by chance."""
SHAPES: dict[str, dict[str, Any]] = {
    "lognormal": {},
    "many ties": {"grid": 30, "spread": 0.06},
    "20 % censored": {"missed": 0.2},
    "50 % censored": {"missed": 0.5},
    "15 % diverge": {"diverged": 0.15},
}
UNEQUAL: dict[str, dict[str, Any]] = {
    "by time": {},
    "by time, steps twice as dear": {"step_times": (1.0, 2.0)},
    "by time, twice as dear, 50 % censored": {"step_times": (1.0, 2.0), "missed": 0.5},
    "by time, 1.5 times as dear, many ties": {"step_times": (1.0, 1.5), "grid": 30, "spread": 0.06},
}
FAMILIES: dict[str, tuple[float, ...]] = {
    "three alike": (1.0,) * 3,
    "four alike": (1.0,) * 4,
    "six alike": (1.0,) * 6,
    "two tied pairs": (1.0, 1.0, 2.0, 2.0),
    "two tied pairs, baseline behind": (2.0, 2.0, 1.0, 1.0),
    "three tied pairs": (2.0, 2.0, 1.0, 1.0, 3.0, 3.0),
    "two tied triples": (1.0,) * 3 + (2.0,) * 3,
    "one ahead of four": (0.5, 1.0, 1.0, 1.0, 1.0),
}


def null_settings() -> Iterator[Setting]:
    """Races in which some methods are truly alike: by steps, where all of the level goes to the test, then by time."""
    for name, shape in SHAPES.items():
        for seeds in (5, 8):
            yield Setting(name=name, seeds=seeds, ratios=TIED, timed=False, **shape)
        yield Setting(name=name, seeds=5, max_seeds=20, ratios=TIED, timed=False, **shape)
    for name, shape in UNEQUAL.items():
        yield Setting(name=name, seeds=5, ratios=TIED, **shape)
    for name, ratios in FAMILIES.items():
        yield Setting(name=name, seeds=5, ratios=ratios, timed=False)
        if len(ratios) < 6:
            yield Setting(name=name, seeds=5, max_seeds=20, ratios=ratios, timed=False)
    yield Setting(name="two tied pairs, 30 % censored", seeds=8, ratios=(1.4, 1.4, 1.0, 1.0), missed=0.3, timed=False)
    yield Setting(name="two tied pairs, by time", seeds=5, ratios=FAMILIES["two tied pairs, baseline behind"])
    for spread, noise in ((0.01, 0.05), (0.01, 0.1), (0.03, 0.1)):
        name = f"ten alike, by time, {100 * noise:g} % of noise"
        yield Setting(name=name, seeds=8, ratios=(1.0,) * 10, spread=spread, grid=8, noise=noise)


def baseline_settings() -> Iterator[Setting]:
    """Races of alike methods that are compared with the first one alone."""
    for methods, seeds in ((3, 5), (6, 5), (17, 7), (33, 7), (33, 8)):
        name = f"{methods} alike, against the first"
        yield Setting(name=name, ratios=(1.0,) * methods, seeds=seeds, grid=3, timed=False, compare="baseline")
    name = "17 alike, against the first, by time"
    yield Setting(name=name, ratios=(1.0,) * 17, seeds=8, grid=3, compare="baseline")
    name = "33 alike, against the first, by time, 10 % of noise"
    yield Setting(name=name, ratios=(1.0,) * 33, seeds=8, spread=0.03, grid=8, noise=0.1, compare="baseline")


def uneven_settings() -> Iterator[Setting]:
    """Races of equal medians that are not alike: the others scatter more than the first."""
    for uneven in (2.0, 3.0, 10.0):
        shape: dict[str, Any] = {"uneven": uneven, "grid": 3, "timed": False}
        for seeds in (5, 8, 12):
            yield Setting(name=f"{uneven:g} times the spread", ratios=TIED, seeds=seeds, **shape)
        yield Setting(name=f"six, {uneven:g} times the spread", ratios=(1.0,) * 6, seeds=5, **shape)
        name = f"33, {uneven:g} times the spread, against the first"
        yield Setting(name=name, ratios=(1.0,) * 33, seeds=8, compare="baseline", **shape)


def margin_settings() -> Iterator[Setting]:
    """Races of methods that differ by exactly the margin; by steps, where equivalence is easiest to reach."""
    for margin, spread in ((0.05, 0.01), (0.05, 0.03), (0.2, 0.03), (0.2, 0.1)):
        for seeds, most in ((5, None), (20, None), (5, 20)):
            shape: dict[str, Any] = {"seeds": seeds, "max_seeds": most, "spread": spread, "margin": margin}
            yield Setting(name=f"differ by {100 * margin:g} %", ratios=(1.0, 1 + margin), grid=1, timed=False, **shape)
    for name in ("20 % censored", "50 % censored", "15 % diverge"):
        shape = {"seeds": 12, "margin": 0.2, "timed": False, **SHAPES[name]}
        yield Setting(name=f"differ by 20 %, {name}", ratios=(1.0, 1.2), grid=1, **shape)
    yield Setting(name="differ by 5 %, coarse grid", ratios=(1.0, 1.05), seeds=20, spread=0.01, grid=15, timed=False)
    triple: dict[str, Any] = {"seeds": 12, "margin": 0.2, "timed": False}
    yield Setting(name="three, each 20 % apart", ratios=(1.0, 1.2, 1.44), grid=1, **triple)
    yield Setting(name="differ by 10 %, by time", ratios=(1.0, 1.1), seeds=20, spread=0.02, grid=3, margin=0.1)


def power_settings() -> Iterator[Setting]:
    """Races in which the second method truly needs 20 % longer, and races of equals that could be called so."""
    for spread in (0.03, 0.1, 0.2):
        for seeds in (3, 5, 8, 12, 20):
            yield Setting(name="20 % longer", ratios=(1.0, 1.2), seeds=seeds, spread=spread, grid=3, timed=False)
        staged: dict[str, Any] = {"seeds": 5, "max_seeds": 20, "spread": spread, "timed": False}
        yield Setting(name="20 % longer", ratios=(1.0, 1.2), grid=3, **staged)
    for seeds in (5, 8):
        yield Setting(name="20 % longer, by time", ratios=(1.0, 1.2), seeds=seeds, grid=3)
    for spread in (0.01, 0.03, 0.1):
        for seeds in (5, 12, 20):
            yield Setting(name="alike", seeds=seeds, spread=spread, grid=3, timed=False)
    yield Setting(name="alike", seeds=5, max_seeds=20, spread=0.03, grid=3, timed=False)


def tally(setting: Setting, races: int, seed: int) -> dict[str, Any]:
    """Judge so many races of a setting, and count what was said of them."""
    rng = np.random.default_rng(seed)
    return row(setting, (race(setting, rng) for _ in range(races)))


def row(setting: Setting, judged: Iterable[tuple[Judgement, int]]) -> dict[str, Any]:
    """What came of a setting's races: how many had a wrong word, with the interval of that share, and all words."""
    races = false = seeds = 0
    words = dict.fromkeys(("better", "worse", "equivalent", "no evidence"), 0)
    for judgement, ran in judged:
        said = claims(setting, judgement)
        races, seeds = races + 1, seeds + ran
        false += any(wrong(setting, c) for c in said)
        for c in said:
            words[c.word] += 1
    low, high = wilson(false, races)
    found = {"races": races, "wrong": false, "share": false / races, "low": low, "high": high}
    return {"setting": asdict(setting), **found, "words": words, "mean_seeds": seeds / races}


def wilson(k: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z, p = 1.96, k / n
    middle, width = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (middle - width) / (1 + z * z / n)), (middle + width) / (1 + z * z / n)


def _job(job: tuple[str, Setting, int, int]) -> tuple[str, dict[str, Any]]:
    part, setting, races, seed = job
    found = tally(setting, races, seed)
    if found["low"] > LEVEL and part != "uneven":  # by chance, or in earnest?
        found["repeated"] = tally(setting, REPEATS * races, seed + 1)
    return part, found


def simulate(races: int, processes: int, only: str) -> dict[str, list[dict[str, Any]]]:
    """The simulated settings whose name holds `only`; each has its own random numbers, whichever others are run."""
    parts = {
        "alike": null_settings(),
        "baseline": baseline_settings(),
        "uneven": uneven_settings(),
        "margin": margin_settings(),
        "power": power_settings(),
    }
    jobs = [
        (part, setting, _fewer(setting, races), 1000 * i + len(setting.ratios))
        for part, settings in parts.items()
        for i, setting in enumerate(settings)
        if only in setting.name
    ]
    found: dict[str, list[dict[str, Any]]] = {part: [] for part in parts}
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for part, result in pool.imap(_job, jobs):
            found[part].append(result)
            show(result)
            if "repeated" in result:
                show(result["repeated"])
    return found


def real(races: int, processes: int) -> list[dict[str, Any]]:
    """Races of a method against itself on networks that really train.

    On each, the races of two methods at five seeds are of fresh runs, each used once. All its runs are then the pool
    from which the sequential races and those of several methods are drawn.
    """
    return [each for name in tiny.TINY for each in _real(name, races, processes)]


def _real(name: str, races: int, processes: int) -> list[dict[str, Any]]:
    each = 2 * 5
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        runs = [t for some in pool.starmap(tiny.arrivals, [(name, each * i, each) for i in range(races)]) for t in some]
    found: list[dict[str, Any]] = []
    for what, ratios, most in (
        ("fresh runs", TIED, None),
        ("resampled", TIED, 20),
        ("three methods, resampled", (1.0,) * 3, None),
        ("six methods, resampled", (1.0,) * 6, None),
    ):
        title = f"{name}, {what}"
        setting = Setting(name=title, ratios=ratios, seeds=5, max_seeds=most, grid=1, spread=math.nan, timed=False)
        rng = None if what == "fresh runs" else np.random.default_rng(len(found))
        found.append(row(setting, (tiny.race(setting, runs, rng, i) for i in range(races))))
        found[-1]["setting"]["spread"] = float(np.std(np.log([t for t in runs if math.isfinite(t)])))
        show(found[-1])
    return found


def _fewer(setting: Setting, races: int) -> int:
    """Races of many methods take long."""
    return races if len(setting.ratios) == 2 else races // 2


def show(result: dict[str, Any]) -> None:
    """Print a row."""
    s = result["setting"]
    seeds = f"{s['seeds']}" if not s["max_seeds"] else f"{s['seeds']} to {s['max_seeds']}"
    said = sum(result["words"].values())
    words = ", ".join(f"{word} {count / said:.1%}" for word, count in result["words"].items() if count)
    flag = " ABOVE THE LEVEL" if result["low"] > LEVEL else ""
    console.print(
        f"{s['name']:<38} methods {len(s['ratios'])}  seeds {seeds:<8} spread {s['spread']:<5.2g} "
        f"wrong {result['share']:.1%} ({result['low']:.1%} to {result['high']:.1%}) of {result['races']}{flag}; "
        f"{words}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the calibration."""
    parser = argparse.ArgumentParser(prog="make calibrate", description=__doc__)
    parser.add_argument("--races", type=int, default=1000, help="simulated races of each setting (default 1000)")
    parser.add_argument("--quick", action="store_true", help="200 simulated races of each setting")
    parser.add_argument("--processes", type=int, default=2, help="processes at once (default 2)")
    parser.add_argument("--real-races", type=int, default=200, help="races of each real network (default 200; 0: none)")
    parser.add_argument("--only", default="", help="simulated settings whose name holds this text; 'none' for none")
    parser.add_argument("--out", type=Path, help="a JSON file for the results; rows of other settings in it stay")
    chosen = parser.parse_args(arguments)
    found = simulate(200 if chosen.quick else chosen.races, chosen.processes, chosen.only)
    if chosen.real_races:
        found["real"] = real(chosen.real_races, chosen.processes)
    if chosen.out:
        chosen.out.write_text(json.dumps(merged(chosen.out, found), indent=1) + "\n", encoding="utf-8")


def merged(path: Path, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The results of a file with these in place of those of the same settings."""
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    everything: dict[str, Any] = {"level": LEVEL}
    for part in ("alike", "baseline", "uneven", "margin", "power", "real"):
        rows = {json.dumps(each["setting"]): each for each in (*old.get(part, ()), *found.get(part, ()))}
        everything[part] = list(rows.values())
    return everything


if __name__ == "__main__":
    main()
