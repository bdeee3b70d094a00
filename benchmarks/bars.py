"""The bars of the engine, each beside what was measured. A bar that this run did not measure is left open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Bar", "bars"]

MAIN, ONE, TINY = "gpt2", "one", "tiny"
NORM_BASED = ("lars", "lamb", "novograd", "adamp")


@dataclass(frozen=True)
class Bar:
    """One bar: `met` is None where it was not measured."""

    what: str
    bar: str
    measured: str
    met: bool | None

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def bars(results: Mapping[str, Any]) -> list[Bar]:
    """All bars for the results of a run, as `bench.py` collects them."""
    steps = {(each["set"], each["method"]): each for each in results.get("steps", ())}
    return [
        *_speed(steps),
        *_start(results.get("startup") or ()),
        *_memory(results.get("memory") or ()),
        *_low_bits(results.get("low_bits") or {}),
        *_inside(results.get("inside")),
        *_overhead(results.get("overhead") or ()),
    ]


def _at_most(what: str, limit: float, value: float | None, unit: str = "", note: str = "") -> Bar:
    if value is None:
        return Bar(what, f"≤ {limit:g}{unit}", "not measured", None)
    return Bar(what, f"≤ {limit:g}{unit}", f"{value:.3g}{unit}{note}", value <= limit)


def _at_least(what: str, limit: float, value: float | None, note: str = "") -> Bar:
    if value is None:
        return Bar(what, f"≥ {limit:g} ×", "not measured", None)
    return Bar(what, f"≥ {limit:g} ×", f"{value:.3g} ×{note}", value >= limit)


def _speed(steps: Mapping[tuple[str, str], Any]) -> Iterator[Bar]:
    main = {method: each for (key, method), each in steps.items() if key == MAIN}
    adamw = main.get("adamw")
    yield _at_most("AdamW, 124M: over its byte bound", 1.15, _over(adamw), " ×")
    yield _at_most("AdamW, 124M: over torch fused", 1.0, _over_rival(adamw, "torch fused"), " ×")
    element = {m: each for m, each in main.items() if each["scope"] == "element" and m != "adamw"}
    yield _worst("every other element rule, 124M: over its byte bound", 1.2, element)
    for variant, said in (("eager", "eager, its quicker way,"), ("compiled", "with compile=True")):
        belief = _against(main.get("adabelief"), variant)
        yield _at_least(f"AdaBelief, 124M: pytorch_optimizer {said} over ours", 4.0, belief)
        others = {m: f for m, e in element.items() if m != "adabelief" and (f := _against(e, variant)) is not None}
        least = min(others, key=lambda m: others[m], default=None)
        yield _at_least(
            f"every other element rule, 124M: pytorch_optimizer {said} over ours",
            2.5,
            None if least is None else others[least],
            f" ({least}, the least of {len(others)})",
        )
    yield _worst("norm-based rules, 124M: over the byte bound of two passes", 1.5, {m: main.get(m) for m in NORM_BASED})
    tiny = steps.get((TINY, "adamw"))
    yield _at_most("AdamW, 148 tensors of 16: a step", 100.0, tiny["seconds"]["median"] * 1e6 if tiny else None, " µs")


def _over(each: Mapping[str, Any] | None) -> float | None:
    return each["over_bound"]["median"] if each and each["over_bound"] else None


def _over_rival(each: Mapping[str, Any] | None, label: str) -> float | None:
    return 1 / each["rivals"][label]["slower"]["median"] if each and label in each["rivals"] else None


def _against(each: Mapping[str, Any] | None, variant: str) -> float | None:
    """How many times ours pytorch_optimizer takes: eager in the quicker of its two ways, or compiled."""
    ways = ("foreach", "for-loop") if variant == "eager" else ("compiled",)
    labels = [f"pytorch_optimizer {way}" for way in ways]
    found = [each["rivals"][label]["slower"]["median"] for label in labels if label in each["rivals"]] if each else []
    return min(found, default=None)


def _worst(what: str, limit: float, several: Mapping[str, Any]) -> Bar:
    found = {method: over for method, each in several.items() if (over := _over(each)) is not None}
    worst = max(found, key=lambda method: found[method], default=None)
    missing = [method for method in several if method not in found]
    note = f" ({worst}, the worst of {len(found)}{'; without ' + ', '.join(missing) if missing else ''})"
    return _at_most(what, limit, found.get(worst or ""), " ×", note)


def _start(rows: Sequence[Mapping[str, Any]]) -> Iterator[Bar]:
    for what, key, limit in (("kernel build, cold: the first step", "cold", 3.0), ("first step, warm", "warm", 0.1)):
        slowest = max(rows, key=lambda row: row[key], default=None)
        note = f" ({slowest['method']}, the slowest of {len(rows)})" if slowest else ""
        yield _at_most(what, limit, slowest[key] if slowest else None, " s", note)


def _memory(rows: Sequence[Mapping[str, Any]]) -> Iterator[Bar]:
    own = [row for row in rows if row["label"] == "downslope"]
    most = max(own, key=lambda row: row["extra"] / row["parameters"], default=None)
    share = 100 * most["extra"] / most["parameters"] if most else None
    yield _at_most("extra memory in a step", 1.0, share, "% of parameters", f" ({most['method']})" if most else "")


def _low_bits(found: Mapping[str, Any]) -> Iterator[Bar]:
    steps = {each["form"]: each for each in found.get("steps", ())}
    loss = {each["form"]: each for each in found.get("loss", ())}
    for form, size, above in (("8bit", 2.1, 0.5), ("4bit", 1.1, 1.5)):
        words = form.replace("bit", "-bit")
        at = steps.get(form)
        yield _at_most(
            f"{words} AdamW: state, one tensor of 32M", size, at["state_per_number"] if at else None, " bytes/param"
        )
        if form == "8bit":
            slower = at["over_float32"]["median"] if at else None
            yield _at_most(f"{words} AdamW: step over the fp32 one, one tensor of 32M", 1.3, slower, " ×")
        value = 100 * loss[form]["above"] if form in loss else None
        yield _at_most(f"{words} AdamW: loss on the text workload above fp32", above, value, "%")


def _inside(found: Mapping[str, Any] | None) -> Iterator[Bar]:
    over = found["peak"] / found["two_largest"] if found else None
    yield _at_most("step inside backward: gradient memory over the two largest parameters", 1.0, over, " ×")


def _overhead(rows: Sequence[Mapping[str, Any]]) -> Iterator[Bar]:
    most = max(rows, key=lambda row: row["over"]["median"], default=None)
    note = f" ({most['workload']})" if most else ""
    over = 100 * (most["over"]["median"] - 1) if most else None
    yield _at_most("referee over a bare training loop", 3.0, over, "%", note)
