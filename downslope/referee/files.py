"""Files of a race's folder: written whole or not at all, and read with one sentence where they cannot be."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from downslope.referee.errors import RaceError

__all__ = ["guard", "make_folder", "read_json", "uninterrupted", "write_json", "write_text"]


@contextlib.contextmanager
def guard(folder: Path) -> Iterator[None]:
    """Turn what a disk or a database can do to a race into one sentence."""
    try:
        yield
    except OSError as error:
        raise _disk_error(folder, error) from error
    except Exception as error:
        chain = [error]
        while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
            chain.append(cause)  # type: ignore[arg-type]
        cause = next((e for e in chain if isinstance(e, sqlite3.Error)), None)
        if cause is None:
            raise
        raise _database_error(folder, cause) from error


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until a change is on disk: an interrupted transaction would keep its lock on the database.

    Likewise SIGTERM, where it is made to raise; where it ends the process, the lock ends with it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = {n: handler for n in (signal.SIGINT, signal.SIGTERM) if callable(handler := signal.getsignal(n))}
    try:
        for number in before:
            signal.signal(number, lambda n, frame: held.append(n))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def _disk_error(folder: Path, error: OSError) -> RaceError:
    if error.errno == errno.ENOSPC:
        return RaceError(
            f"the disk that holds {folder} is full; free some space and run the same command: what is stored is kept."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return RaceError(
            f"cannot write in {folder} ({error.strerror}); name another folder with --folder.", bad_input=True
        )
    return RaceError(f"cannot use {error.filename or folder} ({error.strerror or error}); the race stops here.")


def _database_error(folder: Path, error: sqlite3.Error) -> RaceError:
    path, text = folder / "race.db", str(error)
    if "full" in text:
        return _disk_error(folder, OSError(errno.ENOSPC, text))
    if "readonly" in text or "unable to open" in text:
        return _disk_error(folder, OSError(errno.EACCES, text))
    if "locked" in text:
        return RaceError(f"{path} stayed locked by another program; run the same command again.")
    if "disk I/O" in text:
        return RaceError(f"the disk that holds {path} failed ({text}); run the same command again once it works.")
    return RaceError(
        f"{path} is damaged ({text}); move it away and run the same command: trials stored under "
        f"{folder / 'trials'} are taken over."
    )


def make_folder(folder: Path) -> None:
    """Make a folder and check that it can be written in."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe-{os.getpid()}"
    probe.write_bytes(b"")
    probe.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a file whole: a reader, or the next process after a crash, sees the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("x", encoding="utf-8") as file:  # never through a link that somebody left there
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole; NaN and infinity are refused, since they are not JSON."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON, or say in one sentence what is wrong with the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RaceError(f"cannot read {path} ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise RaceError(
            f"{path} is damaged ({error}); restore it from a copy, or move it away and run the command that started "
            f"the race: stored trials are kept."
        ) from error
