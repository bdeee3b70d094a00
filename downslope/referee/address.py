"""Address: where a database is: a file of SQLite, or a PostgreSQL server that is spoken of without its password."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from sqlalchemy import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from downslope.referee.errors import refuse

__all__ = ["Address", "sqlite_address"]

_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
_RULE = "storage must be a PostgreSQL address, postgresql://user@host/database"


def sqlite_address(path: Path) -> str:
    """The address of a file, whatever signs (`?`, `%`, `#`, `{`) are in its name."""
    return URL.create("sqlite", database=str(path)).render_as_string()


class Address:
    """A server's address. Its `repr` and its texts never show the password; only `url` holds it.

    A password need not be in the address: libpq's PGPASSFILE and PGPASSWORD are used too.
    """

    def __init__(self, text: str) -> None:
        """Read an address; one that cannot be read is refused without being repeated."""
        self._secrets = _secrets(text)
        scheme, found, rest = text.partition("://")
        if found and scheme.startswith("sqlite"):
            refuse(
                "a SQLite file cannot be shared by several machines; leave --storage out and name a folder with "
                "--folder: the race is kept in SQLite there."
            )
        if not found or scheme not in _SCHEMES:
            refuse(f"{_RULE}; got {f'{scheme}://…' if found else 'something else'}.")
        url: URL | None = None
        with contextlib.suppress(ValueError, SQLAlchemyError):
            url = make_url(f"postgresql+psycopg://{rest}")
        if url is None or rest.count("@") > 1 or not url.database:
            refuse(
                f"{_RULE}; the one given cannot be read: write the characters @ : / ? # % of a password as %40 "
                f"%3A %2F %3F %23 %25, or leave it out and name a file with PGPASSFILE."
            )
        self.url = url

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __str__(self) -> str:
        """Host and database, for people."""
        host = self.url.host or self.url.query.get("host") or "this machine"
        port = f":{self.url.port}" if self.url.port else ""
        return self.scrub(f"{host if isinstance(host, str) else ','.join(host)}{port}/{self.url.database}")

    def scrub(self, text: str) -> str:
        """`text` without what may be a password."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def reason(self, error: BaseException) -> str:
        """The driver's own words for an error, on one line, without what may be a password."""
        while isinstance(inner := getattr(error, "orig", None) or error.__cause__, BaseException):
            error = inner
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return self.scrub(lines[0])[:300]

    def arguments(self) -> dict[str, Any]:
        """Connection settings that notice a server that is gone; those in the address come first."""
        settings = {"connect_timeout": 10, "keepalives_idle": 20, "keepalives_interval": 5, "tcp_user_timeout": 30_000}
        return {k: v for k, v in settings.items() if k not in self.url.query}


def _secrets(text: str) -> list[str]:
    """All that may be a password in an address, however it is misspelled; the longest first."""
    _, _, rest = text.partition("://")
    user_part, at, _ = (rest or text).rpartition("@")
    found = set()
    if at:
        _, colon, password = user_part.partition(":")
        if colon:
            found |= {password, *(part for part in re.split(r"[@/:?#]", password) if len(part) > 2)}
    _, _, query = rest.partition("?")
    found |= {value for name, value in parse_qsl(query) if "password" in name.lower()}
    found |= {unquote(secret) for secret in found}
    return sorted((secret for secret in found if secret), key=len, reverse=True)
