"""A PostgreSQL server of our own: Debian's programs, a folder that is thrown away, a Unix socket and no port."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

PASSWORD = "s3cr3t/p@ss:w?rd#%"
"""With every character that a URL must write in another way."""


def missing() -> str | None:
    """Why there can be no server here, or None."""
    if _programs() is None:
        return "PostgreSQL's initdb and pg_ctl are not here (Debian: apt-get install postgresql)"
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "PostgreSQL does not run as root, and setpriv is not here"
    return None


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda p: int(p.parts[-3].split(".")[0]))
    elsewhere = shutil.which("pg_ctl")
    return found[-1].parent if found else Path(elsewhere).resolve().parent if elsewhere else None


class Server:
    """Made, started and restarted by whoever runs the tests, under another user if that is root."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="downslope-postgres-"))
        (self.folder / "password").write_text(PASSWORD)
        self._as: list[str] = []
        if os.geteuid() == 0:
            user = next(name for name in ("postgres", "nobody") if name in {u.pw_name for u in pwd.getpwall()})
            entry = pwd.getpwnam(user)
            for path in (self.folder, self.folder / "password"):
                os.chown(path, entry.pw_uid, entry.pw_gid)
            self._as = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
        password = f"--pwfile={self.folder / 'password'}"
        self._run("initdb", "--auth=scram-sha-256", "--username=racer", password, "--no-sync", "--encoding=UTF8")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://racer:{quote(PASSWORD, safe='')}@/postgres?host={self.folder}"

    @property
    def url_without_password(self) -> str:
        return f"postgresql://racer@/postgres?host={self.folder}"

    def start(self) -> None:
        settings = f"-k {self.folder} -c listen_addresses='' -c fsync=off -c max_connections=60"
        self._run("pg_ctl", "-o", settings, "-l", str(self.folder / "log"), "-w", "start")

    def stop(self, mode: str) -> None:
        self._run("pg_ctl", "-m", mode, "-w", "stop")

    def restart(self, mode: str) -> None:
        self.stop(mode)
        self.start()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Stopped for a while."""
        self.stop("fast")
        try:
            yield
        finally:
            self.start()

    def remove(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self.folder)

    def _run(self, program: str, *arguments: str) -> None:
        where = _programs()
        assert where is not None
        done = subprocess.run(
            [*self._as, str(where / program), "-D", str(self.folder / "data"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=(out := (self.folder / "out").open("w")),
            stderr=subprocess.STDOUT,
            cwd="/",
        )
        out.close()
        assert done.returncode == 0, (self.folder / "out").read_text()
