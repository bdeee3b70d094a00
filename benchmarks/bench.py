"""`make bench`: measure, print the tables and the bars, write them down.

python -m benchmarks.bench --help
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import downslope as ds
from benchmarks.bandwidth import runtimes
from benchmarks.bars import NORM_BASED, bars
from benchmarks.fresh import TaskError, run
from benchmarks.memory import measure_memory
from benchmarks.record import machine, save_record, write_json
from benchmarks.sets import SETS, tensors
from benchmarks.startup import measure_startup
from benchmarks.steps import measure_steps
from benchmarks.tables import all_tables, noise_line

SECTIONS = ("steps", "startup", "memory", "low-bits", "inside", "overhead")
SHORT = ("adamw", "adabelief", "lion", "sgd", "lamb")
"""Methods on the sets other than GPT-2 small."""
COMPILED = ("adamw", "adabelief", "lion")
"""Methods whose rivals are compiled too, on GPT-2 small: each takes half a minute to build."""
STARTING = ("adamw", "adabelief", "lamb")
REMEMBERING = ("adamw", "adabelief", "lamb")

console = Console(width=None if sys.stdout.isatty() else 200)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def default_methods() -> list[str]:
    """The methods that have bars on GPT-2 small: every element rule, and the norm-based ones."""
    element = [card.key for card in ds.find("*") if card.ready and card.scope == "element"]
    return ["adamw", *(key for key in element if key != "adamw"), *NORM_BASED]


@app.command()
def main(
    methods: Annotated[str, typer.Option(help="Keys with commas between; the methods that have bars if empty.")] = "",
    all_methods: Annotated[
        bool, typer.Option("--all", help="Every ready method of the registry on every set.")
    ] = False,
    sets: Annotated[str, typer.Option(help=f"Out of {', '.join(SETS)}.")] = ",".join(SETS),
    only: Annotated[str, typer.Option(help=f"Out of {', '.join(SECTIONS)}.")] = ",".join(SECTIONS),
    execution: Annotated[str, typer.Option(help="The executor under test.")] = "auto",
    seconds: Annotated[float, typer.Option(help="Of rounds for a method beside one rival library.")] = 4.0,
    threads: Annotated[int, typer.Option(help="Of everybody; 0 for torch's own number.")] = 0,
    scale: Annotated[float, typer.Option(help="Sets with this share of their numbers, for a trial run.")] = 1.0,
    rivals: Annotated[bool, typer.Option(help="Time other libraries too.")] = True,
    compiled: Annotated[str, typer.Option(help="Whose rivals torch.compile builds too.")] = ",".join(COMPILED),
    out: Annotated[Path | None, typer.Option(help="Write the results there as JSON.")] = None,
    record: Annotated[Path | None, typer.Option(help="Write results.json and README.md into this folder.")] = None,
) -> None:
    """Time the engine against its byte bound and its rivals, and say which bars are met."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    begin = time.perf_counter()
    wanted, chosen = _known(only, SECTIONS), _known(sets, SETS)
    named = _known(methods, [card.key for card in ds.find("*") if card.ready]) if methods else []
    everything = [card.key for card in ds.find("*") if card.ready] if all_methods else []
    results: dict[str, Any] = {"machine": machine(), "notes": [], "steps": [], "scale": scale}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", folder)  # rivals that compile do so from nothing
        if "steps" in wanted:
            for key in chosen:
                keys = named or everything or (default_methods() if key == "gpt2" else list(SHORT))
                builds = _known(compiled, keys, strict=False) if key == "gpt2" else []
                _steps(results, key, keys, scale, execution, seconds, rivals, builds)
        _others(results, wanted, named, scale, execution, seconds)
    results["command"] = shlex.join(["python", "-m", "benchmarks.bench", *sys.argv[1:]])
    results["seconds"] = time.perf_counter() - begin
    results["machine"]["OpenMP runtimes"] = len(runtimes())
    _report(results, out, record)


def _known(text: str, allowed: Any, *, strict: bool = True) -> list[str]:
    found = [each.strip() for each in text.split(",") if each.strip()]
    unknown = [each for each in found if each not in allowed]
    if unknown and strict:
        raise typer.BadParameter(f"{', '.join(unknown)}: not among {', '.join(allowed)}")
    return [each for each in found if each in allowed]


def _steps(
    results: dict[str, Any],
    key: str,
    methods: list[str],
    scale: float,
    execution: str,
    seconds: float,
    rivals: bool,
    builds: list[str],
) -> None:
    shape_set = SETS[key].scaled(scale)
    shared = tensors(shape_set)
    console.print(f"[bold]{shape_set.title}[/bold]")
    for method in methods:
        found = measure_steps(
            key, shared, method, execution=execution, seconds=seconds, rivals=rivals, compiled=method in builds
        )
        if isinstance(found, str):
            results["notes"].append(f"{key}: {found}")
            console.print(f"  {found}", style="yellow", markup=False)
            continue
        results["steps"].append(found.to_json())
        results["notes"] += [note for note in found.missing if note not in results["notes"]]
        results["notes"] += [f"{key}, {method}: {note}" for note in found.notes]
        over = f", {found.over_bound.median:.2f} × its byte bound" if found.over_bound else ""
        console.print(f"  {method}: {found.seconds.median * 1e3:.3g} ms{over} ({found.rounds} rounds)", highlight=False)


def _others(
    results: dict[str, Any], wanted: list[str], named: list[str], scale: float, execution: str, seconds: float
) -> None:
    """The measurements in processes of their own."""
    if "startup" in wanted:
        console.print("[bold]Start in fresh processes[/bold]")
        results["startup"], notes = measure_startup(named or list(STARTING), execution)
        results["notes"] += notes
    if "memory" in wanted:
        console.print("[bold]Memory in fresh processes[/bold]")
        results["memory"] = []
        for key in named or REMEMBERING:
            rows, notes = measure_memory("gpt2", scale, key, execution)
            results["memory"] += rows
            results["notes"] += [note for note in notes if note not in results["notes"]]
    tasks: dict[str, dict[str, Any]] = {
        "low-bits": {"task": "lowbit:measure", "scale": scale, "execution": execution, "seconds": seconds},
        "inside": {"task": "inside:measure", "execution": execution},
        "overhead": {"task": "overhead:measure"},
    }
    for section in (name for name in tasks if name in wanted):
        console.print(f"[bold]{section.replace('-', ' ').capitalize()}[/bold]")
        try:
            results[section.replace("-", "_")] = run(**tasks[section], timeout=1200.0)
        except TaskError as error:
            results["notes"].append(f"{section} left out: {error}")


def _report(results: dict[str, Any], out: Path | None, record: Path | None) -> None:
    judged = bars(results)
    tables = all_tables(results, judged)
    for table in [*tables[1:], tables[0]]:
        table.show(console)
    for note in results["notes"]:
        console.print(note, style="yellow", highlight=False, markup=False)
    console.print(noise_line(results), style="bold", highlight=False)
    if results["scale"] != 1.0:
        console.print("The sets were scaled: the bars do not apply.", style="bold")
    if out:
        write_json(out, results, judged)
    if record:
        save_record(record, results, judged, tables)


if __name__ == "__main__":
    app()
