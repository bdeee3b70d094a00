"""Put finished races into this record: `python records/first-truths/collect.py FOLDER...`, one race each.

Copies each race's plan and runs to `runs/`, and its comparisons with the baseline into `verdicts.csv`, in place of an
earlier race's of that workload; then draws `overview.svg`, the same as a picture.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from downslope.referee.drawing import svg
from downslope.referee.workloads import BUILT_IN

HERE = Path(__file__).parent
FIELDS = (
    "workload", "method", "measure", "word", "p", "adjusted", "level", "first", "ratio", "low", "high",
    "power", "detectable", "median", "baseline_median", "reached", "baseline_reached", "seeds", "ms_per_step",
)  # fmt: skip
STYLE = """
.head { font-weight: 600; fill: #1c1d20; } .small { font-size: 11px; }
.better rect { fill: #cfead7; } .better text { fill: #1b6b3a; font-weight: 600; }
.worse rect { fill: #f6d3d0; } .worse text { fill: #9d2626; font-weight: 600; }
.equivalent rect { fill: #d5e4f7; } .equivalent text { fill: #24568f; font-weight: 600; }
.none rect { fill: none; } .cell text { font-size: 11px; text-anchor: middle; }
@media (prefers-color-scheme: dark) {
  .head { fill: #e9e8e4; } .better rect { fill: #173322; } .better text { fill: #7fd39a; }
  .worse rect { fill: #3d1d1c; } .worse text { fill: #f59a92; }
  .equivalent rect { fill: #1a2c44; } .equivalent text { fill: #93c1f7; }
}
"""
LEFT, TOP, CELL, ROW = 142, 108, 31, 19
MISSED, ALONE = "–", "✓"


def comparisons(content: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """One line for each method and measure of a race of one workload."""
    (w,) = content["workloads"]
    standings = {s["label"]: s for s in w["standings"]}
    for c in w["judgement"]["against_baseline"]:
        mine, theirs = standings[c["label"]], standings[c["against"]]
        medians = [None if s[c["measure"]] is None else s[c["measure"]]["value"] for s in (mine, theirs)]
        yield {
            "workload": w["name"],
            "method": c["label"],
            **{name: c[name] for name in ("measure", "word", "p", "adjusted", "level", "first", "power", "detectable")},
            **{name: c["ratio"][key] for name, key in (("ratio", "value"), ("low", "low"), ("high", "high"))},
            "median": medians[0],
            "baseline_median": medians[1],
            "reached": mine["hits"],
            "baseline_reached": theirs["hits"],
            "seeds": len(mine["arrivals"]),
            "ms_per_step": None if mine["seconds"] is None else 1e3 * mine["seconds"]["value"],
        }


def collect(folders: Sequence[Path]) -> None:
    """Copy the races and write what they say beside what others said."""
    rows = read()
    (HERE / "runs").mkdir(exist_ok=True)
    for folder in folders:
        content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        name = content["workloads"][0]["name"]
        shutil.copy(folder / "results.csv", HERE / "runs" / f"{name}.csv")
        shutil.copy(folder / "race.json", HERE / "runs" / f"{name}.json")
        rows = [row for row in rows if row["workload"] != name]
        rows += [{k: _short(v) for k, v in row.items()} for row in comparisons(content)]
    order = list(BUILT_IN)
    rows.sort(key=lambda row: order.index(row["workload"]))
    with (HERE / "verdicts.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (HERE / "overview.svg").write_text(overview(rows), encoding="utf-8")


def _short(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def read() -> list[dict[str, str]]:
    """The lines of `verdicts.csv`, if there is one."""
    if not (HERE / "verdicts.csv").exists():
        return []
    with (HERE / "verdicts.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def tally(rows: Sequence[dict[str, str]]) -> dict[str, dict[str, int]]:
    """By method, how often each word was said by each measure; the method most often better by steps first."""
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        counts = found.setdefault(row["method"], {})
        key = f"{row['word']} by {row['measure']}"
        counts[key] = counts.get(key, 0) + 1
        if row["measure"] == "steps":
            counts["reached"] = counts.get("reached", 0) + int(row["reached"])
    return dict(sorted(found.items(), key=lambda item: _place(item[1])))


def _place(counts: dict[str, int]) -> tuple[int, int, int]:
    ahead = counts.get("better by steps", 0) - counts.get("worse by steps", 0)
    by_time = counts.get("better by time", 0) - counts.get("worse by time", 0)
    return -ahead, -by_time, -counts["reached"]


def overview(rows: Sequence[dict[str, str]]) -> str:
    """Methods by workloads: how many times the baseline's median a method takes, coloured where that is decided."""
    found = {(row["workload"], row["method"], row["measure"]): row for row in rows}
    methods = list(tally(rows))
    raced = {row["workload"] for row in rows}
    workloads = [name for name in BUILT_IN if name in raced]
    width, height = LEFT + 2 * CELL * len(workloads) + 40, TOP + ROW * len(methods) + 68
    parts = []
    for i, name in enumerate(workloads):
        x = LEFT + 2 * CELL * i
        parts.append(
            f'<text class="head" x="0" y="0" transform="translate({x + 12} {TOP - 32}) rotate(-28)">{name}</text>'
        )
        for j, measure in enumerate(("steps", "time")):
            middle = x + CELL * j + CELL / 2
            parts.append(f'<text class="small" x="{middle}" y="{TOP - 10}" text-anchor="middle">{measure}</text>')
        if i:
            parts.append(f'<path class="grid" d="M{x} {TOP - 22}V{TOP + ROW * len(methods)}"/>')
    for k, method in enumerate(methods):
        y = TOP + ROW * k
        parts.append(f'<text class="head" x="{LEFT - 10}" y="{y + 14}" text-anchor="end">{escape(method)}</text>')
        for i, name in enumerate(workloads):
            for j, measure in enumerate(("steps", "time")):
                row = found.get((name, method, measure))
                if row is not None:
                    parts.append(_cell(row, LEFT + CELL * (2 * i + j), y))
    foot = TOP + ROW * len(methods) + 22
    lines = (
        "Median steps, and seconds, to the target relative to tuned AdamW (0.50: half).",
        "Green: better, red: worse, blue: equivalent, else no evidence.",
        f"{MISSED}: half of the seeds or more miss the target. {ALONE}: they reach it where AdamW's do not.",
    )
    parts += [f'<text class="small" x="12" y="{foot + 16 * i}">{escape(line)}</text>' for i, line in enumerate(lines)]
    return svg(width, height, "Methods against tuned AdamW, by workload", parts, STYLE)


def _cell(row: dict[str, str], x: float, y: float) -> str:
    if not row["median"]:
        text = MISSED
    elif not row["baseline_median"]:
        text = ALONE
    else:
        text = f"{float(row['median']) / float(row['baseline_median']):.2f}"
    kind = row["word"] if row["word"] != "no evidence" else "none"
    return (
        f'<g class="cell {kind}"><rect x="{x + 1}" y="{y + 1}" width="{CELL - 2}" height="{ROW - 2}" rx="3"/>'
        f'<text x="{x + CELL / 2}" y="{y + 14}">{text}</text></g>'
    )


if __name__ == "__main__":
    collect([Path(name) for name in sys.argv[1:]])
