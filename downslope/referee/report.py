"""The report of a race: one HTML file that needs no network, with every figure, table and fact in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from downslope.referee.draw import DARK, NARROW, SMALL, STYLE, TONES, WIDE, Figure, draw
from downslope.referee.errors import RaceError
from downslope.referee.figures import profile_figure, workload_figures
from downslope.referee.files import write_text
from downslope.referee.picture import picture, pictures
from downslope.referee.series import leading, method_index
from downslope.referee.tables import badge, comparison_table, method_name, order_table, standing_table
from downslope.referee.words import exact, listing, number, percent

__all__ = ["page", "write"]

Content = Mapping[str, Any]
ASSETS = Path(__file__).parent / "assets"
CROWD = 0.1
"""So many cores that other programs keep busy during a timing are worth a sentence."""
PLACE = ("system", "processor", "cores", "accelerator", "torch")
"""The facts of a machine by which seconds per step are told to come from another one."""

WORDS = {
    "better": "reaches the target sooner, and the evidence suffices to say so",
    "worse": "reaches it later, and the evidence suffices",
    "equivalent": "the difference is shown to be smaller than {margin}, either way",
    "no evidence": "these runs tell neither; “would have seen” is the difference that they could have shown",
}


def write(folder: Path, content: Content) -> None:
    """Write `report.html`, `curves.svg` and the figures as `figures/*.svg`.

    Raises:
        RaceError: if `figures` is a link, which may lead anywhere.
    """
    if (folder / "figures").is_symlink():
        raise RaceError(f"{folder / 'figures'} is a link; remove it: figures are written there.", bad_input=True)
    write_text(folder / "report.html", page(content))
    write_text(folder / "curves.svg", picture(content))
    for name, text in pictures(content).items():
        write_text(folder / "figures" / f"{name}.svg", text)


def page(content: Content) -> str:
    """The page for the content of `results.json`."""
    names = [w["name"] for w in content["workloads"]]
    started = str(content["machine"].get("started", ""))[:10]
    hover: dict[str, Any] = {}
    sections = [_section(content, w, f"w{i}", hover) for i, w in enumerate(content["workloads"])]
    return Template((ASSETS / "report.html").read_text(encoding="utf-8")).substitute(
        title=escape(f"Race on {listing(names, 'and')}"),
        eyebrow=escape(" · ".join(x for x in (", ".join(names), started, f"downslope {content['downslope']}") if x)),
        verdict=_verdict(content["verdict"], "h1"),
        words=_words(content),
        overall=_overall(content, hover) if len(names) > 1 else "",
        sections="\n".join(sections),
        ran=_what_ran(content),
        data=_json(hover),
        figures=STYLE + DARK,
        css=(ASSETS / "report.css").read_text(encoding="utf-8"),
        js=(ASSETS / "report.js").read_text(encoding="utf-8"),
    )


def _json(data: Any) -> str:
    """JSON that can stand in a script element, whatever the names in it."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _typeset(sentence: str) -> str:
    """A sentence whose numbers stay on a line with their units."""
    return re.sub(r"(\d|[≥≤=×]) (?=[\dµm%s×])", "\\1&nbsp;", escape(sentence))


def _verdict(text: str, tag: str) -> str:
    """The verdict's first sentence large, the strength of the evidence below it."""
    first, *rest = re.split(r"(?<=\.)\s+(?=[A-Z0-9])", text, maxsplit=1)
    return f"<{tag}>{_typeset(first)}</{tag}>" + "".join(f'<p class="strength">{_typeset(each)}</p>' for each in rest)


def _words(content: Content) -> str:
    """The four words of a comparison, explained once."""
    margin = percent(content["workloads"][0]["judgement"]["margin"])
    items = "".join(
        f"<li>{badge(word)}<span>{escape(text.format(margin=margin))}</span></li>" for word, text in WORDS.items()
    )
    return f'<ul class="words" aria-label="What the words mean">{items}</ul>'


def _overall(content: Content, hover: dict[str, Any]) -> str:
    figure, labels = profile_figure(content), [place["label"] for place in content["order"]]
    drawn = ""
    if figure:
        bar = f'<div class="bar">{_chips(content, labels)}</div>'
        drawn = f'{_crowd(content, labels)}{bar}<div class="grid">{_figure("all", figure, hover)}</div>'
    return (
        f'<section class="first" data-section="all"><h2>Over all workloads</h2>{order_table(content)}{drawn}</section>'
    )


def _section(content: Content, w: Content, key: str, hover: dict[str, Any]) -> str:
    entry = w["workload"]
    several = len(content["workloads"]) > 1
    facts = {
        "target": f"{entry['metric_name']} {'≥' if entry['goal'] == 'max' else '≤'} {exact(entry['target'])}",
        "budget": f"{number(entry['steps'])} steps, evaluated every {entry['evaluate_every']}",
        "tuning": f"none here, its runs have what was tuned on {entry['variant_of']}" if _borrowed(content, w) else "",
        "data": entry["data"],
        "licence": entry["licence"],
        "target set by": entry["target_origin"],
    }
    figures, labels = workload_figures(content, w), [s["label"] for s in w["standings"]]
    large = "".join(_figure(key, f, hover) for f in figures if not f.tuning)
    tuning = "".join(_figure(key, f, hover) for f in figures if f.tuning)
    parts = [
        f"<h2>{escape(w['name'])}</h2>",
        f"<p>{escape(entry['description'])}</p>" if entry["description"] else "",
        _verdict(w["verdict"], 'p class="verdict"').replace('</p class="verdict">', "</p>") if several else "",
        '<ul class="facts">' + "".join(_fact(k, v) for k, v in facts.items() if v) + "</ul>",
        _crowd(content, labels),
        f'<div class="bar">{_chips(content, labels)}{_switch(figures)}</div>',
        f'<div class="grid">{large}</div>',
        standing_table(content, w),
        _comparisons(content, w),
        _use(content, w),
        _tuning(tuning),
        _failures(w),
    ]
    return f'<section data-section="{key}">' + "\n".join(p for p in parts if p) + "</section>"


def _borrowed(content: Content, w: Content) -> bool:
    """Whether a workload is a variant that ran at the points tuned on its base."""
    return w["workload"]["variant_of"] in [other["name"] for other in content["workloads"]]


def _fact(name: str, text: str) -> str:
    return f"<li>{escape(name)} <b>{escape(str(text))}</b></li>"


def _chips(content: Content, labels: Sequence[str]) -> str:
    shown = leading(content, labels)
    chips = "".join(
        f'<button type="button" class="chip t{method_index(content, label) % TONES}" '
        f'aria-pressed="{str(label in shown).lower()}" value="{method_index(content, label)}">{escape(label)}</button>'
        for label in labels
    )
    return f'<div class="chips" role="group" aria-label="Show methods">{chips}</div>'


def _crowd(content: Content, labels: Sequence[str]) -> str:
    """Which methods the figures begin with, where all would be too many."""
    first = len(leading(content, labels))
    if first == len(labels):
        return ""
    return (
        f'<p class="soft">The curves begin with {first} of {len(labels)} methods, the fastest and the baseline; a name '
        f"shows or hides its method.</p>"
    )


def _switch(figures: Sequence[Figure]) -> str:
    if not any("second" in f.charts for f in figures):
        return ""
    return (
        '<span class="switch" role="group" aria-label="Count"><button type="button" value="step" aria-pressed="true">'
        'by step</button><button type="button" value="second" aria-pressed="false">by second</button></span>'
    )


def _figure(section: str, figure: Figure, hover: dict[str, Any]) -> str:
    """A figure with its drawings (for a desk and for a phone, by step and by second) and its buttons."""
    key = f"{section}-{figure.key}"
    sizes = {"small": SMALL} if figure.small else {"wide": WIDE, "narrow": NARROW}
    views = []
    for by, chart in figure.charts.items():
        name = f"{key}-{by or 'one'}"
        hover[name] = [[layer.method, layer.label, layer.hover] for layer in chart.layers]
        drawings = (
            f'<div class="{size}">{draw(chart, pixels, f"{name}-{size}", page=True)}</div>'
            for size, pixels in sizes.items()
        )
        hidden = " hidden" if by == "second" else ""
        views.append(f'<div class="view" data-by="{by}" data-key="{name}"{hidden}>{"".join(drawings)}</div>')
    save = "".join(
        f'<button type="button" class="save" value="{kind}" aria-label="Save this figure as {kind.upper()}">'
        f"{kind.upper()}</button>"
        for kind in ("svg", "png")
    )
    kind = ' class="double"' if figure.tuning and not figure.small else ""
    caption = f"<figcaption>{escape(figure.caption)}</figcaption>" if figure.caption else ""
    return (
        f'<figure id="{key}"{kind}><header><h4>{escape(figure.title)}</h4><span class="tools">{save}</span></header>'
        f'<div class="views">{"".join(views)}</div>{caption}</figure>'
    )


def _tuning(drawn: str) -> str:
    if not drawn:
        return ""
    return (
        '<h3>What tuning did</h3><p class="soft">The small panels show every tuning trial by one hyperparameter at a '
        "time. A full dot reached the target, an open one missed it, a triangle was cut by the pruner, a cross broke; "
        f'the circled one was chosen.</p><div class="grid panels">{drawn}</div>'
    )


def _comparisons(content: Content, w: Content) -> str:
    judgement, baseline = w["judgement"], content["plan"]["methods"][0]["label"]
    measure, fastest = judgement["measure"], judgement["fastest"]

    def table(comparisons: Sequence[Content], whom: str, role: str) -> str:
        caption = f"Each method against <b>{escape(whom)}</b>, {role}, by {measure}."
        ours = comparison_table(content, [c for c in comparisons if c["measure"] == measure], caption)
        rest = [c for c in comparisons if c["measure"] != measure]
        if not rest:
            return ours
        caption = f"Each method against <b>{escape(whom)}</b> by {escape(rest[0]['measure'])}, without time."
        fold = f"The same by {escape(rest[0]['measure'])} alone"
        return f"{ours}<details><summary>{fold}</summary>{comparison_table(content, rest, caption)}</details>"

    found = ""
    if judgement["against_fastest"] and judgement["compare"] == "pairs":
        found += table(judgement["against_fastest"], fastest, "the fastest here")
    if judgement["against_baseline"] and (not found or fastest != baseline):
        found += table(judgement["against_baseline"], baseline, "the baseline, named first")
    if not found:
        return ""
    how = (
        "“Takes” is this method's steps or time over the other's. “Came first” is the share of pairs of runs, one of "
        "each, in which this method arrived first. “Sees 20 %” is the chance of the test to see a difference of 20 % "
        "at the spread of these runs, “would have seen” the smallest ratio that it sees with a chance of 80 %. p is "
        f"corrected for {'all these comparisons' if judgement['compare'] == 'baseline' else 'all pairs'}."
    )
    return f'<h3>Is the difference real?</h3>{found}<p class="soft">{how}</p>'


def _use(content: Content, w: Content) -> str:
    best = w["standings"][0]
    if not best["hits"]:
        return ""
    return (
        f'<h3>Use {method_name(content, best["label"])}</h3><div class="code"><button type="button" class="copy">copy'
        f"</button><pre><code>{escape(best['use'])}</code></pre></div>"
    )


def _failures(w: Content) -> str:
    items = [f"<li><b>{escape(s['label'])}</b>, {escape(f)}</li>" for s in w["standings"] for f in s["failures"]]
    items += [f"<li><b>{escape(k)}</b>, timing: {escape(v)}</li>" for k, v in w["timing"].get("broken", {}).items()]
    return f'<h3>Trials that broke</h3><ul class="broke">{"".join(items)}</ul>' if items else ""


def _what_ran(content: Content) -> str:
    plan, test = content["plan"], content["test"]
    how = (
        "each method's search space; the best trial by steps to the target, then fresh seeds at its point"
        if plan["trials"]
        else "none: the defaults of each method's card"
    )
    facts = {"tuning": how} | {k: v for k, v in plan.items() if k not in ("workloads", "methods", "format")}
    facts["race seed"] = facts.pop("seed")
    facts |= content["machine"]
    spaces = "\n".join(
        f"{m['label']}: " + (", ".join(f"{k} {tuple(v)}" for k, v in m["space"].items()) or "nothing is tuned")
        for m in plan["methods"]
    )
    seeds = "\n".join(f"{t['task']}: {t['seed']}" for w in content["workloads"] for t in w["trials"])
    manifests = "\n\n".join(
        f"{w['name']}, {s['label']}\n{s['manifest']}"
        for w in content["workloads"]
        for s in w["standings"]
        if s["manifest"]
    )
    rows = "".join(
        f"<dt>{escape(str(k).replace('_', ' '))}</dt><dd>{escape(str(v))}</dd>"
        for k, v in facts.items()
        if v is not None
    )
    folds = {"Search spaces": spaces, "Seeds": seeds, "What each optimizer did (manifests)": manifests}
    return (
        f"<section><h2>What ran</h2><dl>{rows}</dl>{_stopped(content)}"
        f"<p>The test is the {escape(test['name'])}. A run that missed its target, or broke, counts as slower than any "
        "that reached it. The verdict is on the tuned points that this budget found; another draw of tuning trials may "
        f"find others. {_timing(content)}</p>"
        f"{''.join(_fold(title, text) for title, text in folds.items())}</section>"
    )


def _timing(content: Content) -> str:
    """How seconds per step were measured and what they cost, and where they were not."""
    test, said = content["test"], []
    by_steps = [w["name"] for w in content["workloads"] if w["judgement"]["measure"] == "steps"]
    if len(by_steps) < len(content["workloads"]):
        said.append(
            "Seconds per step were measured apart from the trials, all methods in turns in one process. Of the "
            f"{percent(test['level'])}, {percent(test['of it for timing'])} is kept for the uncertainty of those "
            f"seconds, and differences of seconds per step below {percent(test['timing floor'])} are not counted."
        )
    for w in content["workloads"]:
        name, others, place = escape(w["name"]), w["timing"].get("others"), w["timing"].get("machine") or {}
        if others and others >= CROWD:
            said.append(f"Other programs kept {number(others, 2)} cores busy while {name} was timed.")
        if any(place[fact] != content["machine"].get(fact, place[fact]) for fact in PLACE if fact in place):
            where = ", ".join(f"{fact} {place[fact]}" for fact in PLACE if fact in place)
            said.append(f"{name} was timed on another machine than the one above: {escape(where)}.")
    if by_steps:
        said.append(f"Not every method was timed on {escape(listing(by_steps, 'or'))}; steps alone count there.")
    return " ".join(said)


def _stopped(content: Content) -> str:
    sequential = content.get("sequential")
    if not sequential:
        return ""
    looks = listing([str(seeds) for seeds in sequential["looks"]], "and")
    return f"<p>Seeds were added until the verdict; it was sought after {looks}: {escape(sequential['stopped'])}.</p>"


def _fold(title: str, text: str) -> str:
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>" if text else ""
