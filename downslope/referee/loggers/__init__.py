"""Loggers: listeners that write a race's events where people look at runs.

`ds.race(..., loggers=["tensorboard", "csv"])` opens them by name; an object of one of the classes takes settings of its
own, `loggers=[MLflow("http://localhost:5000")]`. A logger of one's own is any function of an event, or an object that
can be called with one and may have `close()`; `downslope.referee.events` lists the events.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downslope._checks import nearest
from downslope._lazy import lazy
from downslope.referee.errors import RaceError, refuse
from downslope.referee.events import Listener

if TYPE_CHECKING:
    from downslope.referee.loggers.files import CSV, JSONLines
    from downslope.referee.loggers.mlflow import MLflow
    from downslope.referee.loggers.tensorboard import TensorBoard
    from downslope.referee.loggers.wandb import WandB

__all__ = ["CSV", "NAMES", "JSONLines", "MLflow", "TensorBoard", "WandB", "open_events", "open_loggers"]

NAMES = {
    "tensorboard": "TensorBoard",
    "csv": "CSV",
    "jsonl": "JSONLines",
    "wandb": "WandB",
    "mlflow": "MLflow",
}
_HOMES = {"TensorBoard": "tensorboard", "CSV": "files", "JSONLines": "files", "WandB": "wandb", "MLflow": "mlflow"}

__getattr__ = lazy(__name__, _HOMES)


def open_loggers(loggers: Sequence[str | Listener]) -> list[Listener]:
    """The listeners that are meant by names and objects.

    Raises:
        RaceError: for an unknown name, something that cannot be called, or a package that is not installed.
    """
    if isinstance(loggers, str):
        refuse(f"loggers must be a list of loggers; got {loggers!r}, write [{loggers!r}].")
    return [_open(item) for item in loggers]


def open_events(sink: Listener | str | Path) -> Listener:
    """The listener that `race(events=...)` means: a function, or a file of JSON lines.

    Raises:
        RaceError: for anything else, and for a file in a folder that does not exist.
    """
    if isinstance(sink, str | Path):
        if Path(sink).is_dir() or not Path(sink).parent.is_dir():
            refuse(f"events must be a file in a folder that exists; got {str(sink)!r}.")
        build: Callable[[str | Path], Listener] = __getattr__("JSONLines")
        return build(sink)
    if not callable(sink) or isinstance(sink, type):
        refuse(f"events must be a function of an event, or the path of a file; got {sink!r}.")
    return sink


def _open(item: str | Listener) -> Listener:
    if isinstance(item, str):
        if item not in NAMES:
            guess = nearest(item, NAMES)
            hint = f"did you mean {guess!r}?" if guess else f"the names are {', '.join(NAMES)}."
            refuse(f"there is no logger {item!r}; {hint}")
        build: Callable[[], Listener] = __getattr__(NAMES[item])
        return build()
    if not callable(item) or isinstance(item, type):
        refuse(
            f"a logger must be one of {', '.join(NAMES)}, or an object that can be called with an event; got {item!r}."
        )
    return item


def require(name: str, module: str) -> Any:
    """The package behind a logger, or one sentence on how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RaceError(
            f"logger {name!r} needs a package that cannot be imported ({error}); "
            f"pip install 'downslope[{name}]', or leave the logger out.",
            bad_input=True,
        ) from error
