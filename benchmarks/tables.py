"""The results as tables, for the terminal (rich) and for a record (Markdown)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.bars import Bar
from benchmarks.sets import SETS
from benchmarks.steps import NOISY

__all__ = ["Table", "all_tables", "noise_line"]


@dataclass(frozen=True)
class Table:
    """A title, a head, rows of text, and a note below."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""

    def show(self, console: Console) -> None:
        """Print it."""
        table = RichTable(title=self.title, title_justify="left", caption=self.note or None, caption_justify="left")
        for i, name in enumerate(self.head):
            table.add_column(name, justify="left" if i == 0 else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)

    def markdown(self) -> str:
        """The same as Markdown."""
        lines = [self.head, ("---", *("---:" for _ in self.head[1:])), *self.rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)
        return f"## {self.title}\n\n{body}\n" + (f"\n{self.note}\n" if self.note else "")


def all_tables(results: Mapping[str, Any], bars: Sequence[Bar]) -> list[Table]:
    """Every table that the results have something for; the bars first."""
    steps = results.get("steps", [])
    found = [_bars(bars)]
    found += [_steps(key, [each for each in steps if each["set"] == key]) for key in SETS]
    found += [_rivals([each for each in steps if each["set"] == "gpt2"])]
    found += [_startup(results.get("startup") or []), _memory(results.get("memory") or [])]
    found += [_low_bit_steps(results), _low_bit_loss(results), _overhead(results.get("overhead") or [])]
    found += [_inside(results.get("inside")), _traffic(steps)]
    return [table for table in found if table.rows]


def noise_line(results: Mapping[str, Any]) -> str:
    """What the plain kernels say about the machine during the run."""
    noise = [each["noise"] for each in results.get("steps", []) if each["over_bound"]]
    if not noise:
        return "No plain kernel ran, so nothing is known about how quiet the machine was."
    noisy = sum(each > NOISY for each in noise)
    line = f"Plain kernels: the quartiles of the worst were {max(noise):.0%} of its median apart"
    if not noisy:
        return f"{line}: a quiet machine."
    share = f"in {noisy} of {len(noise)} measurements over {NOISY:.0%}"
    return f"{line}; {share}. THE MACHINE WAS NOT QUIET; do not cite this."


def _bars(bars: Sequence[Bar]) -> Table:
    words = {True: "met", False: "NOT MET", None: "open"}
    rows = [(bar.what, bar.bar, bar.measured, words[bar.met]) for bar in bars]
    return Table("The bars", ("what", "bar", "measured", ""), rows)


def _steps(key: str, found: Sequence[Mapping[str, Any]]) -> Table:
    labels = list(dict.fromkeys(label for each in found for label in each["rivals"]))
    head = ("method", "scope", "executor", "bound", "±", "a step", "quartiles", "over bound", "state B/param")
    rows = []
    for each in found:
        unit, scale = ("ms", 1e3) if each["seconds"]["median"] > 1e-3 else ("µs", 1e6)
        own = {k: v * scale for k, v in each["seconds"].items()}
        over = each["over_bound"]
        row = [each["method"], each["scope"], each["executor"]]
        row += [f"{each['bound']['median'] * scale:.3g} {unit}", f"{each['noise']:.0%}"] if over else ["", ""]
        row += [f"{own['median']:.3g} {unit}", f"{own['low']:.3g}-{own['high']:.3g}"]
        row += [f"{over['median']:.2f}{' (matrix)' if each['matrix'] else ''}" if over else ""]
        row += [f"{each['state_bytes'] / each['numel']:.3g}"]
        row += [_rival(each, label) for label in labels]
        rows.append(tuple(row))
    note = (
        "Rivals: how many times our step theirs takes, the median over rounds. ±: the distance of the quartiles of the "
        "plain kernels. Over bound: our step over the time in which plain kernels move the bytes that it must move; "
        "(matrix): bound by arithmetic, not by bytes."
    )
    return Table(
        f"Step time: {SETS[key].title}", (*head, *(x.replace("pytorch_optimizer", "p_o") for x in labels)), rows, note
    )


def _rival(each: Mapping[str, Any], label: str) -> str:
    rival = each["rivals"].get(label)
    return f"{rival['slower']['median']:.2f}" if rival else ""


def _rivals(steps: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for each in steps:
        own = {"first_step": each["first_step"], "state_bytes": each["state_bytes"], "seconds": each["seconds"]}
        for label, one in {"downslope": own, **each["rivals"]}.items():
            times = (f"{one['first_step']:.2f} s", f"{one['seconds']['median'] * 1e3:.3g} ms")
            rows.append((each["method"], label, *times, f"{one['state_bytes'] / each['numel']:.3g}"))
    note = "The first step makes the state and whatever has to be built."
    return Table(
        f"First step and state: {SETS['gpt2'].title}",
        ("method", "by", "first step", "a step", "state B/param"),
        rows,
        note,
    )


def _traffic(steps: Sequence[Mapping[str, Any]]) -> Table:
    by_method = {each["method"]: each for each in steps}
    rows = [
        (m, f"{(each['bound_bytes'] or 0) / each['numel']:.3g}", str(each["depth"]), each["traffic"] or "")
        for m, each in by_method.items()
    ]
    note = (
        "Found by watching the reference executor. Passes as written: how often the data would be read if each "
        "reduction were made on its own; the bound counts two at most."
    )
    return Table(
        "What a step must read and write", ("method", "bytes/param", "passes as written", "traffic"), rows, note
    )


def _startup(found: Sequence[Mapping[str, Any]]) -> Table:
    rows = [(row["method"], row["executor"], f"{row['cold']:.2f} s", f"{row['warm'] * 1e3:.0f} ms") for row in found]
    note = "Fresh processes, from the imported package to the end of the first step, on 148 tensors of 16."
    return Table("Cold build and warm start", ("method", "executor", "cold cache", "warm cache"), rows, note)


def _memory(found: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for row in found:
        parts = [f"{row[key] / 2**20:.1f} MiB" for key in ("parameters", "state", "extra")]
        rows.append((row["method"], row["label"], *parts, f"{row['extra'] / row['parameters']:.2%}"))
    head = ("method", "by", "parameters", "state", "extra in a step", "of parameters")
    note = (
        "Extra: VmHWM after a step, reset before it, less VmRSS before it; fresh processes, the median of three steps."
    )
    return Table("Memory above parameters, gradients and state", head, rows, note)


def _low_bit_steps(results: Mapping[str, Any]) -> Table:
    found = results.get("low_bits") or {}
    rows = [
        (
            each["form"],
            f"{found['by_default'][each['form']]:.2f}",
            f"{each['state_per_number']:.3f}",
            f"{each['seconds']['median'] * 1e3:.3g} ms",
            f"{each['float32']['median'] * 1e3:.3g} ms",
            f"{each['over_float32']['median']:.2f}",
        )
        for each in found.get("steps", [])
    ]
    head = ("AdamW's state", "bytes/param, 124M by default", "bytes/param", "a step", "fp32 step", "over fp32")
    note = "By default the embeddings (a third of the 124M) and small tensors keep float32 state."
    return Table("Low-bit state: size and time, one tensor of 32M", head, rows, note)


def _low_bit_loss(results: Mapping[str, Any]) -> Table:
    found = (results.get("low_bits") or {}).get("loss", [])
    rows = [
        (each["form"], " ".join(f"{x:.4f}" for x in each["seeds"]), f"{each['mean']:.4f}", f"{each['above']:+.2%}")
        for each in found
    ]
    title = f"Low-bit state: {found[0]['metric']} on the text workload" if found else ""
    return Table(title, ("AdamW's state", "seeds", "mean", "above fp32"), rows)


def _inside(found: Mapping[str, Any] | None) -> Table:
    head = ("method", "peak, step inside", "peak, ordinary loop", "two largest parameters", "all parameters")
    keys = ("peak", "without", "two_largest", "all")
    rows = [(found["method"], *(f"{found[key] / 2**20:.2f} MiB" for key in keys))] if found else []
    return Table("Gradient memory with the step inside backward", head, rows)


def _overhead(found: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        (
            row["workload"],
            f"{row['trial'] * 1e3:.3g} ms",
            f"{row['bare'] * 1e3:.3g} ms",
            *(f"{row['over'][key] - 1:+.1%}" for key in ("median", "low", "high")),
        )
        for row in found
    ]
    head = ("workload", "trial, a step", "bare loop", "overhead", "low quartile", "high quartile")
    return Table("The referee over a bare training loop", head, rows)
