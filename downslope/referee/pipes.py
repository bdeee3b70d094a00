"""Pipes: what comes back from other processes, read without ever waiting for it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
from typing import Any

__all__ = ["KEPT", "Lines", "Tail"]

KEPT = 64 * 1024
"""Bytes of what a process prints that are kept: the last ones."""


class Lines:
    """Lines of JSON from a socket."""

    def __init__(self, source: socket.socket) -> None:
        source.setblocking(False)
        self.source, self.closed = source, False
        self._rest = b""

    def read(self) -> list[Any]:
        """All lines that are there."""
        parts = [self._rest]
        while not self.closed:
            try:
                part = self.source.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError:
                part = b""
            self.closed = not part
            parts.append(part)
        *lines, self._rest = b"".join(parts).split(b"\n")
        return [json.loads(line) for line in lines]


class Tail:
    """A pipe to print into, of which the last `KEPT` bytes are kept."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._reading, self.writing = os.pipe()
        os.set_blocking(self._reading, False)
        self._selector, self._open = selector, True
        self._kept = bytearray()
        self._dropped = 0
        selector.register(self._reading, selectors.EVENT_READ, self.read)

    def handed_over(self) -> None:
        """The other process has its end."""
        os.close(self.writing)

    def read(self, most: int = 64) -> None:
        """Take what is there, at most 4 MiB, so that nobody else has to wait for a process that prints on and on."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(most if self._open else 0):
                part = os.read(self._reading, 1 << 16)
                if not part:
                    self._let_go()
                    break
                self._kept += part
                surplus = max(0, len(self._kept) - KEPT)
                self._dropped += surplus
                del self._kept[:surplus]

    def text(self) -> str:
        """What was kept; a first line says how much is missing."""
        text = bytes(self._kept).decode("utf-8", "replace")
        return f"[{self._dropped} bytes before this were not kept]\n{text}" if self._dropped else text

    def close(self) -> None:
        """Take what is left and let go."""
        self.read()
        self._let_go()

    def _let_go(self) -> None:
        if self._open:
            self._open = False
            self._selector.unregister(self._reading)
            os.close(self._reading)
