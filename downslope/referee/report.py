"""The report of a race: one HTML file that needs no network, with every figure, table and fact in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from downslope.referee.files import write_text
from downslope.referee.picture import picture
from downslope.referee.series import figure_data, hue
from downslope.referee.tables import comparison_table, order_table, standing_table
from downslope.referee.words import listing, number, percent

__all__ = ["page", "write"]

ASSETS = Path(__file__).parent / "assets"


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `report.html` and `curves.svg`."""
    write_text(folder / "report.html", page(content))
    write_text(folder / "curves.svg", picture(content))


def page(content: Mapping[str, Any]) -> str:
    """The page for the content of `results.json`."""
    from plotly.offline import get_plotlyjs

    names = [w["name"] for w in content["workloads"]]
    started = str(content["machine"].get("started", ""))[:10]
    return Template((ASSETS / "report.html").read_text(encoding="utf-8")).substitute(
        title=escape(f"Race on {listing(names, 'and')}"),
        eyebrow=escape(" · ".join(x for x in (", ".join(names), started, f"downslope {content['downslope']}") if x)),
        verdict=_typeset(content["verdict"]),
        overall=order_table(content) if len(names) > 1 else "",
        sections="\n".join(_section(content, w) for w in content["workloads"]),
        ran=_what_ran(content),
        data=json.dumps(figure_data(content), allow_nan=False).replace("<", "\\u003c"),
        css=(ASSETS / "report.css").read_text(encoding="utf-8"),
        js=(ASSETS / "report.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
    )


def _typeset(sentence: str) -> str:
    """A sentence whose numbers stay on a line with their units."""
    return re.sub(r"(\d|[≥≤=×]) (?=[\dµm%s×])", "\\1&nbsp;", escape(sentence))


def _section(content: Mapping[str, Any], w: Mapping[str, Any]) -> str:
    entry = w["workload"]
    several = len(content["workloads"]) > 1
    goal = f"{entry['metric_name']} {'≥' if entry['goal'] == 'max' else '≤'} {number(entry['target'])}"
    facts = {
        "target": goal,
        "set by": entry["target_origin"],
        "budget": f"{entry['steps']} steps, evaluated every {entry['evaluate_every']}",
        "data": entry["data"],
        "licence": entry["licence"],
    }
    parts = [
        f"<h2>{escape(w['name'])}</h2>",
        f"<p>{escape(entry['description'])}</p>" if entry["description"] else "",
        f'<p class="verdict">{_typeset(w["verdict"])}</p>' if several else "",
        '<ul class="facts">' + "".join(_fact(k, v) for k, v in facts.items() if v) + "</ul>",
        _chips(content, w),
        _figures(content, w),
        standing_table(content, w),
        _comparisons(content, w),
        _use(w),
        _failures(w),
    ]
    return f'<section data-workload="{escape(w["name"])}">' + "\n".join(p for p in parts if p) + "</section>"


def _fact(name: str, text: str) -> str:
    return f"<li>{escape(name)} <b>{escape(str(text))}</b></li>"


def _chips(content: Mapping[str, Any], w: Mapping[str, Any]) -> str:
    chips = "".join(
        f'<button type="button" class="chip" aria-pressed="true" value="{escape(s["label"])}" '
        f'style="--hue:{hue(content, s["label"])}">{escape(s["label"])}</button>'
        for s in w["standings"]
    )
    return f'<div class="chips" role="group" aria-label="Show methods">{chips}</div>'


def _figures(content: Mapping[str, Any], w: Mapping[str, Any]) -> str:
    seeds, trials = content["plan"]["seeds"], content["plan"]["trials"]
    metric = escape(w["workload"]["metric_name"])
    switch = (
        '<span class="switch"><button type="button" value="step" aria-pressed="true">by step</button>'
        '<button type="button" value="second" aria-pressed="false">by second</button></span>'
    )
    curves = (
        f"<figure><header><h4>{metric} on the way to the target</h4>{switch}</header>"
        f'<div class="plot" data-plot="curves"></div><figcaption>Median of {_count(seeds, "seed")} at the tuned point, '
        "with the band from the lowest to the highest seed, and every seed as a thin line. A seed that has reached the "
        "target keeps its last value.</figcaption></figure>"
    )
    arrivals = (
        '<figure><header><h4>Steps to target</h4></header><div class="plot small" data-plot="arrivals"></div>'
        "<figcaption>Every seed, the median (upright), and the interval of the median (bar).</figcaption></figure>"
    )
    tuning = (
        '<figure><header><h4>What tuning cost</h4></header><div class="plot small" data-plot="tuning"></div>'
        "<figcaption>The best steps to target found after so many trials: the median over all orders of the "
        f"{_count(trials, 'trial')}.</figcaption></figure>"
    )
    return f'{curves}<div class="pair">{arrivals}{tuning if trials else ""}</div>'


def _comparisons(content: Mapping[str, Any], w: Mapping[str, Any]) -> str:
    judgement, baseline = w["judgement"], content["plan"]["methods"][0]["label"]
    level = percent(content["test"]["level"])
    found = ""
    if judgement["against_fastest"]:
        caption = f"Against {escape(judgement['fastest'])}, the fastest here. Level {level} over all comparisons."
        found += comparison_table(content, judgement["against_fastest"], caption)
    if judgement["against_baseline"] and judgement["fastest"] != baseline:
        caption = f"Against {escape(baseline)}, the baseline. Level {level} over all comparisons (Holm)."
        found += comparison_table(content, judgement["against_baseline"], caption)
    return f"<h3>Is the difference real?</h3>{found}" if found else ""


def _use(w: Mapping[str, Any]) -> str:
    best = w["standings"][0]
    if not best["hits"]:
        return ""
    return (
        f"<h3>Use {escape(best['label'])}</h3>"
        f"<pre><code>import downslope as ds\n\noptimizer = {escape(best['use'])}</code></pre>"
    )


def _failures(w: Mapping[str, Any]) -> str:
    items = [f"<li><b>{escape(s['label'])}</b>, {escape(f)}</li>" for s in w["standings"] for f in s["failures"]]
    items += [f"<li><b>{escape(k)}</b>, timing: {escape(v)}</li>" for k, v in w["timing"].get("broken", {}).items()]
    return f"<h3>Trials that broke</h3><ul>{''.join(items)}</ul>" if items else ""


def _what_ran(content: Mapping[str, Any]) -> str:
    plan, test = content["plan"], content["test"]
    tuned = (
        f"{_count(plan['trials'], 'trial')} per method in the search space of its card (sampler {plan['sampler']}, "
        f"pruner {plan['pruner']}), the best by steps to target, then {_count(plan['seeds'], 'fresh seed')} at that "
        "point"
        if plan["trials"]
        else f"the defaults of each method's card, {_count(plan['seeds'], 'seed')}"
    )
    facts = {"tuning": tuned, "race seed": plan["seed"]}
    facts |= {k.replace("_", " "): v for k, v in content["machine"].items() if v is not None}
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
    rows = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items())
    folds = {"Search spaces": spaces, "Seeds": seeds, "What each optimizer did (manifests)": manifests}
    return (
        f"<section><h2>What ran</h2><dl>{rows}</dl>"
        f"<p>The test is the {escape(test['name'])}. A run that missed its target, or broke, counts as slower than any "
        "that reached it. The verdict is on the tuned points that this budget found; another draw of tuning trials may "
        "find others. Seconds per step were measured apart from the trials, all methods in turns in one process. Of "
        f"the {percent(test['level'])}, {percent(test['of it for timing'])} is kept for the uncertainty of those "
        f"seconds, and differences of seconds per step below {percent(test['timing floor'])} are not counted.</p>"
        f"{''.join(_fold(title, text) for title, text in folds.items())}</section>"
    )


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _fold(title: str, text: str) -> str:
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>" if text else ""
