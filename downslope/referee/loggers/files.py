"""Loggers that write plain files: every event as a JSON line, or every evaluated point as a CSV row."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import IO, Any

from downslope.referee.events import Event

__all__ = ["CSV", "JSONLines"]

COLUMNS = ("workload", "method", "phase", "index", "seed", "step", "loss", "metric", "seconds")


class JSONLines:
    """Every event as one line of JSON, appended as it happens.

    Args:
        path: of the file; `events.jsonl` in the race's folder by default.
    """

    name = "jsonl"

    def __init__(self, path: str | Path | None = None) -> None:
        self._file = _Appended(path, "events.jsonl")

    def __call__(self, event: Event) -> None:
        self._file.add(event, json.dumps(event, allow_nan=False) + "\n")

    def close(self) -> None:
        self._file.close()


class CSV:
    """The curves of all finished trials, one row per evaluated point, appended when a trial ends.

    Columns: workload, method, phase, index, seed, step, loss (mean training loss since the last point), metric, seconds
    (of training so far).

    Args:
        path: of the file; `points.csv` in the race's folder by default.
    """

    name = "csv"

    def __init__(self, path: str | Path | None = None) -> None:
        self._file = _Appended(path, "points.csv", head=_rows([COLUMNS]))

    def __call__(self, event: Event) -> None:
        points = [{**event, **point} for point in event["curve"]] if event["event"] == "trial_finished" else []
        self._file.add(event, _rows([["" if p[c] is None else p[c] for c in COLUMNS] for p in points]))

    def close(self) -> None:
        self._file.close()


def _rows(rows: Any) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


class _Appended:
    """A file that several processes may append whole lines to; it is opened when the race's folder is known."""

    def __init__(self, path: str | Path | None, default: str, *, head: str = "") -> None:
        self._path, self._default, self._head = path, default, head
        self._file: IO[bytes] | None = None

    def add(self, event: Event, text: str) -> None:
        if event["event"] == "race_started":
            self.close()  # what an earlier race has left open
        if self._file is None:
            path = Path(self._path or Path(event["folder"]) / self._default)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab+", buffering=0)
            self._heal()
        if text:
            self._file.write(text.encode())  # one write: whole lines, also beside other processes

    def _heal(self) -> None:
        """End a line that a crash cut off, and begin an empty file with its head."""
        assert self._file is not None
        size = self._file.seek(0, io.SEEK_END)
        if size == 0:
            self._file.write(self._head.encode())
        else:
            self._file.seek(size - 1)
            if self._file.read(1) != b"\n":
                self._file.write(b"\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
