"""A record of a run: results.json and a README.md with the tables, the machine and the command."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.bandwidth import compiler
from benchmarks.bars import Bar
from benchmarks.tables import Table, noise_line
from downslope.referee.machine import machine_facts

__all__ = ["machine", "save_record", "write_json"]


def machine() -> dict[str, Any]:
    """The machine and what runs on it."""
    facts = machine_facts() | {"threads": torch.get_num_threads(), "compiler": _version(compiler())}
    files = {"load at the start": "/proc/loadavg", "huge pages": "/sys/kernel/mm/transparent_hugepage/enabled"}
    facts |= {name: Path(file).read_text().strip() for name, file in files.items() if Path(file).exists()}
    return facts


def _version(command: str | None) -> str:
    if command is None:
        return "none"
    said = subprocess.run([command, "--version"], capture_output=True, text=True, check=False).stdout
    return said.splitlines()[0] if said else command


def write_json(path: Path, results: Mapping[str, Any], bars: Sequence[Bar]) -> None:
    """Write the results and the bars as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**results, "bars": [bar.to_json() for bar in bars]}, indent=1) + "\n")


def save_record(folder: Path, results: Mapping[str, Any], bars: Sequence[Bar], tables: Sequence[Table]) -> None:
    """Write the folder of a record."""
    write_json(folder / "results.json", results, bars)
    met = sum(bar.met is True for bar in bars)
    missed = sum(bar.met is False for bar in bars)
    facts = "\n".join(f"| {name} | {value} |" for name, value in results["machine"].items())
    notes = "\n".join(f"- {note}" for note in results.get("notes", []))
    scaled = "" if results["scale"] == 1.0 else " The sets were scaled for a trial run: the bars do not apply."
    text = f"""# Speed and memory of the engine

{met} bars met, {missed} missed, {len(bars) - met - missed} not measured in this run. {noise_line(results)}

Command: `{results["command"]}`, {results["seconds"]:.0f} seconds.{scaled} All numbers are in `results.json`.

{_METHOD}
"""
    text += "\n" + "\n".join(table.markdown() for table in tables)
    text += f"\n## The machine\n\n| | |\n| --- | --- |\n{facts}\n"
    text += f"\n## Left out\n\n{notes}\n" if notes else ""
    (folder / "README.md").write_text(text)


_METHOD = """\
Steps are timed in one process: plain kernels, our optimizer and one rival library at a time take turns, a step or more
each, the order turned by one in every round; ratios are taken within a round, and medians over the rounds. All
contestants step the same parameters with the same gradients and each its own state, with the same number of threads on
the same OpenMP runtime. The plain kernels read and write as many arrays as the step does, in place, with plain stores,
on arrays of as many numbers as the set has (2^26 at most).

Rivals at their own best: torch fused, foreach and for-loop; pytorch_optimizer (p_o) foreach, which is its default,
for-loop, and `create_optimizer(compile=True)` where that was built; heavyball with its compiled multi-tensor functions.
Decay, momentum and rectification are the same for all."""
