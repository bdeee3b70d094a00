"""The card of a method: the only record of it, which command, docs, referee and tests read.

A card is a literal in the method's file, so it can be read without importing torch.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Card"]

Range = tuple[str | float | bool, ...]


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of one method.

    Args:
        key: the name in `ds.make(key, …)` and on the command line.
        name: the name in the paper.
        exports: the public names of the file; the first is the ready optimizer when `ready`.
        paper: authors, title, place and year.
        url: where the paper is.
        year: of first publication.
        code: the code the method was compared with, and its commit or version.
        formula: the update in one line of plain text.
        scope: `element`, `tensor`, `global`, `schedule` or `search`.
        needs: what it needs besides the gradient: `loss`, `curvature`, `previous_gradient`.
        state: what it keeps for a parameter, in words.
        state_values: numbers kept per number of the parameter.
        defaults: where the default hyperparameters come from.
        tuning: search space by argument of the ready optimizer: `("log", low, high)`, `("uniform", low, high)`,
            `("int", low, high)` or `("choice", a, b, …)`, as the authors tune it.
        claim: what the paper claims, in one line.
        evidence: what was found here so far.
        status: `proved` when all four proofs stand, else what is missing.
        ready: whether there is a ready optimizer (modifiers, schedules and searches have none).
        aliases: other keys that name the same method.
    """

    key: str
    name: str
    exports: tuple[str, ...]
    paper: str
    url: str
    year: int
    code: str
    formula: str
    scope: str
    state: str
    state_values: float
    defaults: str
    claim: str
    evidence: str
    status: str
    needs: tuple[str, ...] = ()
    tuning: dict[str, Range] | None = None
    ready: bool = True
    aliases: tuple[str, ...] = ()
    room: str = ""
    module: str = ""
