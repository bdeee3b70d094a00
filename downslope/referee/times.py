"""Times: anybody's table of times to target, read into one form whatever shape it has."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from downslope.referee.errors import RaceError

__all__ = ["Times", "read_times"]

SUBMISSION = ("submission", "method")
LONG = "submission, workload and time (and study, trial, reached, evaluation where there are any)"
OPTIONAL = ("study", "trial", "reached", "evaluation")
MISS = ("", "inf", "nan", "none", "miss", "missed")
YES, NO = ("true", "1", "1.0", "yes"), ("false", "0", "0.0", "no")

Row = tuple[str, Mapping[str, Any]]  # where it stands, for sentences; its cells by column


@dataclass(frozen=True)
class Times:
    """Time to target by submission and workload, every pair filled; a miss is infinite.

    `absent` are the pairs that the table says nothing about; they count as misses.
    """

    value: dict[str, dict[str, float]]
    workloads: tuple[str, ...]
    absent: tuple[tuple[str, str], ...] = ()


def read_times(table: Any, *, best_trial: str = "time") -> Times:
    """The times in a table.

    Args:
        table: a path of a CSV file; a mapping from submissions to mappings from workloads to times; a list of rows as
            mappings; or a pandas DataFrame. Rows are *wide* (a submission, then a column per workload) or *long*
            (columns `submission`, `workload`, `time`; a column named `method` serves as `submission`). A miss is an
            empty cell, None, NaN, infinity or the word `miss`. In a long table, `reached` (true or false) may tell
            misses, `study` and `trial` several runs: the best trial of each study counts, then the median over
            studies. Other columns of a long table are not read.
        best_trial: which trial of a study is the best: "time" (the shortest) or "evaluation" (the fewest evaluations
            up to the target, from a column of that name, then the shortest time), as AlgoPerf's scoring code has it.

    Raises:
        RaceError: a cell, row or column that cannot be read; the sentence names it.
    """
    if best_trial not in ("time", "evaluation"):
        raise _bad(f"best_trial must be 'time' or 'evaluation'; got {best_trial!r}.")
    if isinstance(table, Mapping):
        columns: list[str] = []
        found = {str(name): _nested(name, times) for name, times in table.items()}
    else:
        columns, rows = _rows(table)
        found = {} if not rows else _long(columns, rows, best_trial) if _is_long(columns) else _wide(columns, rows)
    if not any(found.values()):
        raise _bad("the table has no times; give at least one submission with a workload.")
    if best_trial == "evaluation" and not _is_long(columns):
        raise _bad("best_trial='evaluation' needs a long table with a column evaluation; this one is wide.")
    workloads = tuple(dict.fromkeys(w for times in found.values() for w in times))
    absent = tuple((s, w) for s, times in found.items() for w in workloads if w not in times)
    return Times({s: {w: t.get(w, math.inf) for w in workloads} for s, t in found.items()}, workloads, absent)


def _bad(sentence: str) -> RaceError:
    return RaceError(f"score: {sentence}", bad_input=True)


def _is_long(columns: Sequence[str]) -> bool:
    return "workload" in columns or "time" in columns


def _nested(name: Any, times: Any) -> dict[str, float]:
    if not isinstance(times, Mapping):
        raise _bad(f"{name!r} must map workloads to times; got {times!r}.")
    return {str(w): _time(f"submission {name!r}", str(w), value) for w, value in times.items()}


def _rows(table: Any) -> tuple[list[str], list[Row]]:
    """The columns and the rows of a table, each row with words for where it stands."""
    if isinstance(table, str | os.PathLike):
        return _csv(Path(table))
    if hasattr(table, "to_dict") and hasattr(table, "columns"):  # a DataFrame; its index may hold the submissions
        named = any(str(c).strip().lower() in SUBMISSION for c in table.columns)
        table = (table if named else table.rename_axis("submission").reset_index()).to_dict("records")
    if not isinstance(table, Iterable):
        raise _bad(f"a table is a CSV path, a mapping, a list of rows or a DataFrame; got {type(table).__name__}.")
    rows: list[Row] = []
    for i, row in enumerate(table):
        if not isinstance(row, Mapping):
            raise _bad(f"row {i + 1} must map columns to cells; got {row!r}.")
        rows.append((f"row {i + 1}", {_known(str(c)): v for c, v in row.items()}))
    return list(dict.fromkeys(c for _, row in rows for c in row)), rows


def _known(column: str) -> str:
    """Columns of the long form are found in any case; workloads keep theirs."""
    plain = column.strip()
    return plain.lower() if plain.lower() in (*SUBMISSION, *OPTIONAL, "workload", "time") else plain


def _csv(path: Path) -> tuple[list[str], list[Row]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _bad(f"cannot read {path} ({getattr(error, 'strerror', None) or error}); give a CSV file.") from error
    first = text.lstrip().split("\n", 1)[0]
    reader = csv.reader(text.splitlines(), delimiter=max(",;\t", key=first.count))
    columns: list[str] = []
    rows: list[Row] = []
    for cells in reader:
        where = f"{path.name}, line {reader.line_num}"
        if not any(cell.strip() for cell in cells):
            continue
        if not columns:
            columns = [_known(cell) for cell in cells]
            if len(set(columns)) < len(columns):
                twice = next(c for c in columns if columns.count(c) > 1)
                raise _bad(f"{where}: the column {twice!r} stands twice; give each a name of its own.")
        elif len(cells) != len(columns):
            raise _bad(f"{where}: {len(cells)} cells under {len(columns)} columns; give every row the same cells.")
        else:
            rows.append((where, dict(zip(columns, cells, strict=True))))
    return columns, rows


def _submission_column(columns: Sequence[str], *, wide: bool) -> str:
    named = next((c for c in SUBMISSION if c in columns), None)
    if named is None and wide and columns:
        return columns[0]
    if named is None:
        raise _bad(f"a long table needs the columns {LONG}; got {', '.join(columns)}.")
    return named


def _wide(columns: Sequence[str], rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    key = _submission_column(columns, wide=True)
    if len(columns) < 2:
        raise _bad("a wide table needs a column of submissions and one per workload; this one has no workloads.")
    found: dict[str, dict[str, float]] = {}
    for where, row in rows:
        name = _name(where, row, key)
        if name in found:
            raise _bad(f"{where}: {name!r} has a row already; repeated runs need a long table with a column trial.")
        found[name] = {c: _time(where, c, v) for c, v in row.items() if c != key}
    return found


def _long(columns: Sequence[str], rows: Sequence[Row], best_trial: str) -> dict[str, dict[str, float]]:
    key = _submission_column(columns, wide=False)
    needed = ("workload", "time") if best_trial == "time" else ("workload", "time", "evaluation")
    if missing := [c for c in needed if c not in columns]:
        raise _bad(f"a long table needs the columns {LONG}; this one lacks {' and '.join(missing)}.")
    runs: dict[tuple[str, str], dict[str, dict[str, tuple[float, float]]]] = {}
    for where, row in rows:
        name, workload = _name(where, row, key), _name(where, row, "workload")
        study, trial = (str(row.get(c, "")).strip() for c in ("study", "trial"))
        trials = runs.setdefault((name, workload), {}).setdefault(study, {})
        if trial in trials:
            raise _bad(
                f"{where}: {name!r} has a row for {workload!r} already; tell repeated runs apart by a column "
                f"{'trial' if 'trial' not in columns else 'study'}."
            )
        time = _time(where, "time", row.get("time")) if _reached(where, row) else math.inf
        order = 0.0 if best_trial == "time" or math.isinf(time) else _evaluation(where, row)
        trials[trial] = (math.inf if math.isinf(time) else order, time)
    found: dict[str, dict[str, float]] = {}
    for (name, workload), studies in runs.items():
        found.setdefault(name, {})[workload] = median(min(trials.values())[1] for trials in studies.values())
    return found


def _name(where: str, row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    text = "" if value is None else str(value).strip()
    if not text:
        raise _bad(f"{where}, column {column}: the cell is empty; name the {column}.")
    return text


def _time(where: str, column: str, cell: Any) -> float:
    """A time > 0, or infinity for a miss."""
    if cell is None or (isinstance(cell, str) and cell.strip().lower() in MISS):
        return math.inf
    value = _number(where, column, cell)
    if math.isnan(value) or value == math.inf:
        return math.inf
    if value <= 0:
        raise _bad(f"{where}, column {column}: a time must be > 0 (empty for a miss); got {cell!r}.")
    return value


def _evaluation(where: str, row: Mapping[str, Any]) -> float:
    value = _number(where, "evaluation", row.get("evaluation"))
    if not value >= 0:
        raise _bad(f"{where}, column evaluation: must be a number >= 0 where the target was reached; got {value}.")
    return value


def _number(where: str, column: str, cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        raise _bad(f"{where}, column {column}: must be a number, or empty for a miss; got {cell!r}.") from None


def _reached(where: str, row: Mapping[str, Any]) -> bool:
    cell = str(row.get("reached", "true")).strip().lower()
    if cell not in YES + NO:
        raise _bad(f"{where}, column reached: must be true or false; got {row['reached']!r}.")
    return cell in YES
