"""Tables of the report, as HTML. Every name and value is escaped here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from downslope.referee.draw import TONES
from downslope.referee.raceprofile import measured
from downslope.referee.series import method_index
from downslope.referee.spaces import shown
from downslope.referee.words import number, percent, seconds_text

__all__ = ["badge", "comparison_table", "method_name", "order_table", "standing_table"]

Content = Mapping[str, Any]
SIGNS = {"better": "▲", "worse": "▼", "equivalent": "=", "no evidence": "?"}


def badge(word: str) -> str:
    """One of the four words of a comparison, in its own look."""
    known = word if word in SIGNS else "no evidence"
    return (
        f'<span class="badge {known.replace(" ", "-")}"><i aria-hidden="true">{SIGNS[known]}</i>{escape(word)}</span>'
    )


def method_name(content: Content, label: str) -> str:
    """A method's name with its colour."""
    return f'<span class="hue t{method_index(content, label) % TONES}"></span>{escape(label)}'


def _cell(text: str, *, small: Sequence[str] = (), value: object = "", kind: str = "") -> str:
    """A cell; `text` and `small` must be escaped already, `value` is what the column is sorted by."""
    attributes = f' class="{kind}"' if kind else ""
    if value != "":
        attributes += f' data-value="{escape("" if value is None else str(value))}"'
    return f"<td{attributes}><div>{text}{''.join(f'<small>{each}</small>' for each in small if each)}</div></td>"


def _table(caption: str, names: Sequence[str], rows: Sequence[Sequence[str]], *, text: Sequence[int] = ()) -> str:
    """A table that sorts by its columns; `text` are those with text, which stands on the left."""
    heads = (
        f'<th scope="col"{" class=text" if i in text else ""}><button type="button">{escape(name)}</button></th>'
        for i, name in enumerate(names)
    )
    labels = [f'<td data-label="{escape(name)}"' for name in names]
    body = "".join(
        f"<tr>{''.join(label + cell.removeprefix('<td') for label, cell in zip(labels, row, strict=True))}</tr>"
        for row in rows
    )
    return (
        f'<div class="sheet"><p class="soft">{caption}</p><div class="scroll" tabindex="0">'
        f'<table class="sortable"><thead><tr>{"".join(heads)}</tr></thead><tbody>{body}</tbody></table></div></div>'
    )


def _name(content: Content, label: str) -> str:
    return _cell(method_name(content, label), value=label, kind="name")


def _between(e: Content, show: Callable[[Any], str], beyond: str = "missed") -> list[str]:
    """An interval in small print, with its coverage where it is not the usual one; a unit is said once.

    `beyond` stands for an end that there is not.
    """
    low, high = (beyond if e[end] is None else show(e[end]) for end in ("low", "high"))
    unit = high.rpartition(" ")[2]
    if " " in high and not unit[0].isdigit() and low.endswith(f" {unit}"):
        low = low.removesuffix(f" {unit}")
    coverage = round(e["coverage"], 2)
    return [escape(f"{low} to {high}"), escape("" if coverage >= 0.95 else f"covers {percent(coverage)}")]


def _estimate(e: Content | None, show: Callable[[Any], str], *more: str) -> str:
    if e is None or (e["value"] is None and e["low"] is None):
        return _cell("missed" if e is not None else "–", value=None)
    text = "missed" if e["value"] is None else show(e["value"])
    return _cell(escape(text), small=[*_between(e, show), *map(escape, more)], value=e["value"])


def _mega(size: float | None) -> str:
    if size is None:
        return "–"
    if size < 1e5:
        return f"{number(size / 1e3)} kB"
    return f"{size / 1e6:.2f} MB" if size < 1e8 else f"{size / 1e9:.2f} GB"


def _plural(n: int, what: str) -> str:
    return f"{number(n)} {what}" if n == 1 else f"{number(n)} {what}s"


def standing_table(content: Content, w: Content) -> str:
    """The methods of one workload: time, steps, seconds per step, memory, what tuning took, the tuned point."""
    names = ["method", "time to target", "steps to target", "reached", "per step", "first step", "peak memory"]
    names += ["tuning", "tuned to"]
    rows = []
    for s in w["standings"]:
        alone = "" if s["step_alone"] is None else f"optimizer {seconds_text(s['step_alone'])}"
        state = "" if s["state_bytes"] is None else f"state {_mega(s['state_bytes'])}"
        built = f"built in {seconds_text(s['build'])}" if s["build"] else ""
        tuned = ", ".join(f"{k}={shown(v)}" for k, v in (s["tuned"] or {}).items())
        rows.append(
            [
                _name(content, s["label"]),
                _estimate(s["time"], seconds_text),
                _estimate(s["steps"], number, f"mean {number(s['mean_steps'])}"),
                _cell(f"{s['hits']} of {len(s['arrivals'])}", value=s["hits"]),
                _estimate(s["seconds"], seconds_text, alone),
                _cell(escape(seconds_text(s["first_step"])), small=[built], value=s["first_step"]),
                _cell(_mega(s["memory"]), small=[state], value=s["memory"]),
                _tuning(s),
                _cell(escape(tuned) or ("defaults" if s["tuned"] is not None else "–"), kind="text"),
            ]
        )
    time = (
        "Time is steps times seconds per step; the first step stands apart, and so does what compiling a method's "
        "kernels took, once on that machine."
        if any(s["seconds"] for s in w["standings"])
        else "Seconds per step were not measured, so there is no time."
    )
    caption = (
        "Medians over seeds with their intervals, and what these cover where it is less than 95 %: few seeds give no "
        f"better. The mean of the steps counts a miss as the whole budget. {time} Peak memory is what training added "
        "to a fresh process, or to the GPU where the model is there."
    )
    return _table(caption, names, rows, text=[0, 8])


def _tuning(s: Content) -> str:
    cost = s.get("tuning_cost")
    if not cost:
        return _cell(_plural(len(s["tuning"]), "trial"), value=len(s["tuning"]))
    cut = f"{cost['cut']} cut, {number(cost['saved'])} steps saved" if cost["cut"] else ""
    return _cell(_plural(cost["trials"], "trial"), small=[f"{number(cost['steps'])} steps", cut], value=cost["steps"])


def comparison_table(content: Content, comparisons: Sequence[Content], caption: str) -> str:
    """Pairwise verdicts by one measure: the word, the ratio, and the strength of the evidence."""
    names = ["method", "verdict", "takes", "came first", "p, corrected", "level", "sees 20 %", "would have seen"]
    rows = []
    for c in comparisons:
        ratio = c["ratio"]
        times = "–" if ratio["value"] is None else f"{number(ratio['value'])} ×"
        reach = "–" if c["detectable"] is None else f"{number(c['detectable'])} ×"
        rows.append(
            [
                _name(content, c["label"]),
                _cell(badge(c["word"]), value=list(SIGNS).index(c["word"]) if c["word"] in SIGNS else 9, kind="text"),
                _cell(times, small=_between(ratio, lambda v: f"{number(v)} ×", beyond="any"), value=ratio["value"]),
                _cell(percent(round(c["first"], 3)), value=c["first"]),
                _cell(number(c["adjusted"], 2), small=[f"alone {number(c['p'], 2)}"], value=c["adjusted"]),
                _cell(percent(c["level"]), value=c["level"]),
                _cell("–" if c["power"] is None else percent(round(c["power"], 2)), value=c["power"]),
                _cell(reach, value=c["detectable"]),
            ]
        )
    single = " The interval of “takes” is that of one comparison alone; the word is corrected for the others."
    caption = f"{caption} {_tests(comparisons)}{single if len(comparisons) > 1 else ''}"
    found = _table(caption, names, rows, text=[0, 1])
    notes = dict.fromkeys(c["note"] for c in comparisons if c["note"])
    return found + "".join(f'<p class="note">{escape(note[:1].upper() + note[1:])}.</p>' for note in notes)


def _tests(comparisons: Sequence[Content]) -> str:
    """Which test gave which words."""
    by_test: dict[str, set[str]] = {}
    for c in comparisons:
        by_test.setdefault(c["test"], set()).add(c["word"])
    parts = []
    for test, words in by_test.items():
        which = f" ({escape(', '.join(sorted(words)))})" if len(by_test) > 1 else ""
        parts.append(f"{escape(test)}{which}")
    return f"Test: {'; '.join(parts)}."


def order_table(content: Content) -> str:
    """The methods over all workloads."""
    profile = content["profile"]
    names = ["method", "targets reached", "times the fastest", "score"]
    rows = []
    for place in content["order"]:
        label, factor = place["label"], place["factor"]
        row = [
            _name(content, label),
            _cell(f"{place['targets']} of {len(profile['workloads'])}", value=place["targets"]),
            _cell("–" if factor is None else f"{number(factor)} ×", value=factor),
            _cell(number(profile["score"][label]), value=profile["score"][label]),
        ]
        for w in content["workloads"]:
            s = next(s for s in w["standings"] if s["label"] == label)
            measure = w["judgement"]["measure"]
            row.append(_estimate(s[measure], seconds_text if measure == "time" else number))
        rows.append(row)
    unit = measured(content["workloads"], profile)
    caption = (
        f"Targets reached by more than half of the seeds, then the geometric mean of {unit} to target "
        "relative to the fastest, then the area under the performance profile. Variants are held out: they only take a "
        "target away."
    )
    return _table(caption, [*names, *(w["name"] for w in content["workloads"])], rows, text=[0])
