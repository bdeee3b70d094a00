"""The registry: cards, read from the method files without importing torch; and the classes behind them, on demand.

Methods of other packages join through the entry point group `downslope.methods`: each entry names a module that has
a `CARD`.
"""

from __future__ import annotations

import ast
import fnmatch
import importlib
import importlib.util
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downslope._card import Card
from downslope._checks import UnknownMethod, nearest

if TYPE_CHECKING:
    from downslope._core import Optimizer, Params

__all__ = ["card", "cards", "exports", "find", "make", "signature"]

ROOMS = ("optim", "lowmem", "curvature", "tunefree", "modifiers", "clip", "schedule", "estimator", "search")


@cache
def cards() -> dict[str, Card]:
    """All cards by key, in the order of rooms and keys."""
    found: dict[str, Card] = {}
    public: dict[str, str] = {}
    for one in (*_own_cards(), *_third_party_cards()):
        keys = (one.key, *one.aliases)
        taken = [found[k].module for k in keys if k in found] + [public[n] for n in one.exports if n in public]
        if taken and not one.module.startswith("downslope."):
            warnings.warn(
                f"{one.module} is left out: its key or a name that it exports is taken by {taken[0]}.", stacklevel=2
            )
            continue
        if taken:
            raise ValueError(f"{one.module}: its key or a name that it exports is taken by {taken[0]}.")
        found |= dict.fromkeys(keys, one)
        public |= dict.fromkeys(one.exports, one.module)
    return found


def _own_cards() -> Iterator[Card]:
    root = Path(__file__).parent
    for room in ROOMS:
        for path in sorted((root / room).glob("*.py")):
            read = _read(path, room, f"downslope.{room}.{path.stem}")
            if read is not None:
                yield read


def _third_party_cards() -> Iterator[Card]:
    """The cards of other packages; what cannot be read is left out with a warning."""
    for entry in entry_points(group="downslope.methods"):
        try:
            spec = importlib.util.find_spec(entry.value)
            read = _read(Path(spec.origin), entry.name, entry.value) if spec and spec.origin else None
        except (ImportError, OSError, SyntaxError, TypeError, ValueError) as error:
            warnings.warn(
                f"The entry point {entry.name!r} names {entry.value}, which cannot be read: {error}.", stacklevel=2
            )
            continue
        if read is None:
            warnings.warn(
                f"The entry point {entry.name!r} names {entry.value}, which has no literal CARD.", stacklevel=2
            )
        else:
            yield read


def _read(path: Path, room: str, module: str) -> Card | None:
    """The card of a method file, evaluated as a literal; None if the file has none."""
    text = path.read_text(encoding="utf-8")
    start = text.find("\nCARD = Card(")
    if start < 0:
        return None
    block = text[start : text.index("\n)\n", start) + 2].strip()
    call = ast.parse(block, str(path)).body[0].value  # type: ignore[attr-defined]
    values = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    return replace(Card(**values), room=room, module=module)


def find(pattern: str = "*") -> list[Card]:
    """The cards whose key, name or exports match a pattern such as `"*belief*"`; without a wildcard, contain it."""
    wanted = (pattern if any(c in pattern for c in "*?[") else f"*{pattern}*").lower()
    unique = {one.key: one for one in cards().values()}.values()
    words = {one.key: (one.key, one.name, *one.aliases, *one.exports) for one in unique}
    return [one for one in unique if any(fnmatch.fnmatchcase(w.lower(), wanted) for w in words[one.key])]


def card(key: str) -> Card:
    """The card of a method.

    Raises:
        UnknownMethod: if no card has this key; names the nearest.
    """
    found = cards().get(key)
    if found is None:
        classes = {name.lower(): one.key for one in cards().values() for name in (*one.exports, one.key)}
        guess = classes.get(str(key).lower()) or nearest(str(key), cards())
        hint = f"did you mean {guess!r}?" if guess else "`downslope find` lists them."
        raise UnknownMethod(f"There is no method {key!r}; {hint}")
    return found


def make(key: str, params: Params, **hyper: Any) -> Optimizer:
    """Build any ready method by its key: `ds.make("adabelief", model, lr=1e-3)`.

    Raises:
        UnknownMethod: if there is no such method, or it is a part that has no ready optimizer.
        UnknownArgument, ArgumentError: as the method itself.
    """
    found = card(key)
    if not found.ready:
        uses = {"schedule": "pass it as a hyperparameter", "search": "call it with what is to be tuned"}
        use = uses.get(found.scope, "put it into ds.Optimizer(params, ds.chain(...))")
        raise UnknownMethod(f"{key!r} is a part, not an optimizer: ds.{found.exports[0]}; {use}.")
    made: Optimizer = getattr(importlib.import_module(found.module), found.exports[0])(params, **hyper)
    return made


@cache
def exports() -> dict[str, str]:
    """Public names of the method files, and the modules that hold them."""
    return {name: one.module for one in cards().values() for name in one.exports}


def signature(one: Card) -> dict[str, str]:
    """Arguments of a ready method or function (of a part: its fields), their defaults as text, without importing it."""
    spec = importlib.util.find_spec(one.module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    named = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    target = named.get(one.exports[0])
    if target is None:
        return {}
    if isinstance(target, ast.FunctionDef):
        return _arguments(target.args)
    for node in target.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return {name: default for name, default in _arguments(node.args).items() if name != "self"}
    fields = [node for node in target.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    stated = {f.target.id: f.value for f in fields if isinstance(f.target, ast.Name) and f.target.id != "_"}
    return {name: ast.unparse(value) if value else "" for name, value in stated.items()}


def _arguments(stated: ast.arguments) -> dict[str, str]:
    named = [*stated.args, *stated.kwonlyargs]
    values = [*[None] * (len(stated.args) - len(stated.defaults)), *stated.defaults, *stated.kw_defaults]
    return {a.arg: ast.unparse(v) if v is not None else "" for a, v in zip(named, values, strict=True)}
