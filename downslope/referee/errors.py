"""The one error that the referee shows to its users."""

from __future__ import annotations

from typing import NoReturn

__all__ = ["LeftToOthers", "RaceError", "refuse"]


class RaceError(Exception):
    """A race cannot start, go on or be read; the message is one sentence that says why and what to do.

    `bad_input` tells what the user asked for (exit code 2) from what happened on the way (exit code 1).
    """

    def __init__(self, message: str, *, bad_input: bool = False) -> None:
        super().__init__(message)
        self.bad_input = bad_input


class LeftToOthers(RaceError):
    """This process has done its part of a race, and others go on and write the report: no fault, and no result here."""


def refuse(sentence: str) -> NoReturn:
    """Refuse what a race was asked for."""
    raise RaceError(f"race: {sentence}", bad_input=True)
