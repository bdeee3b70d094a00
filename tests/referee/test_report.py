from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from downslope.referee import RaceError, Recipe, Result, Workload, race, worker
from downslope.referee.report import page
from downslope.referee.results import write
from downslope.referee.series import median_curve
from downslope.referee.store import Store
from downslope.referee.tables import SIGNS
from downslope.referee.words import number, seconds_text
from tests.referee.sample import content

NASTY = "<img src=x onerror=alert(1)>&\"'</script>"
KNOWN = set(
    re.findall(
        r"\S+",
        """aria-hidden aria-label aria-pressed charset class clip-path content cx cy d data-by data-frame data-full
        data-key data-label data-m data-section data-value data-wide data-x data-y fill fill-opacity height hidden id
        lang name r role rx scope stroke stroke-dasharray stroke-linejoin stroke-opacity stroke-width tabindex
        text-anchor transform type value viewbox viewBox width x xmlns y""",
    )
)
DRAWN = {"svg", "style", "rect", "text", "path", "circle", "clipPath", "g"}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, toy: Workload) -> Result:
    """A race whose every name is an attack, with a method that never arrives and one that diverges."""
    nasty = replace(
        toy,
        name=NASTY.replace("/", ""),
        metric_name=NASTY,
        description=NASTY,
        data=NASTY,
        licence=NASTY,
        target_origin=NASTY,
    )
    methods = [
        Recipe("adamw", NASTY.replace("/", "")),
        Recipe("sgd", "never", space={"lr": ("log", 1e-9, 1e-8)}),
        Recipe("sgd", "wild", fixed={"lr": 1e38}, space={"momentum": ("choice", 0.0, 0.9)}),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "TIMING", {"seconds": 0.0, "least_turns": 2})
        folder = tmp_path_factory.mktemp("races") / "nasty"
        return race(nasty, methods=methods, trials=3, seeds=4, folder=folder, quiet=True)


class Page(HTMLParser):
    """What a browser would see: elements, what they load, and the text outside scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.scripts: list[str] = []
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.loads += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "action")]
        self.open += [tag] if tag not in ("meta", "br", "img", "link", "input") else []
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.text += data


def test_the_page_is_whole_and_loads_nothing(result: Result):
    page = Page(result.report.read_text())
    assert page.open == []
    assert page.loads == []
    assert not set(page.tags) & {"link", "img", "iframe", "object", "base"}
    assert result.sentence[:40] in page.text.replace("\xa0", " ")
    for words in ("Is the difference real?", "What ran", "Use ", "Trials that broke", "Seeds", "Search spaces"):
        assert words in page.text
    assert result.report.stat().st_size < 500_000


def test_names_are_escaped_everywhere(result: Result):
    text = result.report.read_text()
    page = Page(text)
    assert NASTY in page.text
    assert len(page.scripts) == 2  # the data and ours: none was opened or closed by a name
    assert "<" not in page.scripts[0]
    assert NASTY.replace("/", "") in {
        label for layers in json.loads(page.scripts[0]).values() for _, label, _ in layers
    }
    assert all(name in KNOWN for name in page.attributes)
    for path in [result.folder / "curves.svg", *(result.folder / "figures").iterdir()]:
        root = ElementTree.fromstring(path.read_text())
        assert {element.tag.rpartition("}")[2] for element in root.iter()} <= DRAWN
        assert all(name in KNOWN for element in root.iter() for name in element.attrib)


def test_every_comparison_shows_its_strength(result: Result):
    page = Page(result.report.read_text())
    w = result.content["workloads"][0]
    c = w["judgement"]["against_fastest"][0]
    assert c["test"] in page.text
    for heading in ("level", "sees 20 %", "would have seen", "p, corrected", "takes"):
        assert heading in page.text
    for word in ("better", "worse", "equivalent", "no evidence"):
        assert page.text.count(f"{SIGNS[word]}{word}") >= 1  # explained, each with a sign of its own


def test_a_race_that_added_seeds_says_when_it_looked_and_why_it_stopped(result: Result):
    told = {"looks": [5, 10], "spent": [0.01, 0.04], "stopped": f"{NASTY} stopped after 10 of at most 20 seeds"}
    text = Page(page({**result.content, "sequential": told})).text
    assert f"it was sought after 5 and 10: {NASTY} stopped after 10 of at most 20 seeds." in text


def test_what_ran_has_the_machine_and_every_optimizers_manifest():
    text = Page(page(content(["first", "second"], {"adamw": "adamw", "lion": "lion"}, text=NASTY))).text
    assert f"processor{NASTY}" in text
    assert text.count("manifest of adamw") == text.count("manifest of lion") == 2
    assert "first/adamw/seed/000: " in text
    assert "Other programs kept 0.7 cores busy while first was timed." in text
    assert f"first was timed on another machine than the one above: processor another {NASTY}, cores 3." in text
    assert "built in 2.5 s" in text


def test_a_real_race_tells_what_it_ran_on_and_with(result: Result):
    text = Page(result.report.read_text()).text
    for fact in ("processor", "system", "python", "torch", "numpy", "git here", "threads", "What each optimizer did"):
        assert fact in text
    assert "another machine" not in text
    manifests = [s["manifest"] for s in result.content["workloads"][0]["standings"] if s["tuned"] is not None]
    assert len(manifests) > 1
    assert all(manifest in text for manifest in manifests)


def test_a_pruner_says_what_it_cut_and_an_order_that_means_something_has_no_interval():
    found = content(["first"], {"adamw": "adamw", "lion": "lion"})
    assert "over all orders of those that were run (dot), with its interval (bar)" in Page(page(found)).text
    found["plan"]["pruner"] = "median"
    for s in found["workloads"][0]["standings"]:
        s["tuning_cost"] = {"trials": 5, "steps": 700, "cut": 3, "saved": 1200}
        s["best_after"] = [e | {"low": e["value"], "high": e["value"], "coverage": 0.0} for e in s["best_after"]]
    text = page(found)
    assert "3 cut, 1 200 steps saved" in text.replace("\xa0", " ")
    assert "in the order in which they ran" in text
    assert "over all orders" not in text
    assert "covers 0 %" not in text


def test_where_no_time_was_measured_the_page_does_not_say_so():
    found = content(["first", "second"], {"adamw": "adamw", "lion": "lion", "wild": "sgd"})
    timed = Page(page(found)).text
    for w in found["workloads"]:
        w["judgement"]["measure"] = "steps"
        for s in w["standings"]:
            s |= {"seconds": None, "time": None}
    counted = Page(page(found)).text
    said = {
        "Seconds per step were measured apart": "Not every method was timed on first or second; steps alone count",
        "mean of time to target": "mean of steps to target",
        "the fastest method's time": "the fastest method's steps",
        "Time is steps times seconds per step": "Seconds per step were not measured, so there is no time.",
    }
    for by_time, by_steps in said.items():
        assert (by_time in timed, by_steps in timed) == (True, False)
        assert (by_time in counted, by_steps in counted) == (False, True)


def test_targets_keep_their_digits_and_small_states_their_size():
    found = content(["w"], {"adamw": "adamw", "lion": "lion"})
    found["workloads"][0]["workload"]["target"] = 0.12345678
    found["workloads"][0]["standings"][0]["state_bytes"] = 2100
    text = Page(page(found)).text
    assert "made up ≤ 0.12345678" in text
    assert "target 0.12345678" in text
    assert "state 2.1 kB" in text


def test_over_all_workloads_each_method_can_be_shown():
    found = content(["a", "b"], {f"m{i}": ("adamw", "lion", "sgd")[i % 3] for i in range(12)})
    section = page(found).partition('data-section="all"')[2].partition("</section>")[0]
    assert section.count('class="chip t') == 12
    assert section.count('aria-pressed="false"') == 4
    assert "The curves begin with 8 of 12 methods" in section


def test_hover_knows_what_was_measured(result: Result):
    data = json.loads(Page(result.report.read_text()).scripts[0])
    arrivals = {label: points for _, label, points in data["w0-arrivals-step"]}
    assert [text for _, _, text in arrivals["never"]] == [f"seed {i}: missed" for i in range(1, 5)]
    tuning = {label: points for _, label, points in data["w0-tuning-one"]}
    assert all("not reached" in text for *_, text in tuning["never"])
    fast = next(s for s in result.content["workloads"][0]["standings"] if s["label"] == NASTY.replace("/", ""))
    assert [x for x, *_ in arrivals[fast["label"]]] == fast["arrivals"]


def test_json_and_csv_hold_every_trial(result: Result):
    content = json.loads((result.folder / "results.json").read_text())
    assert content == result.content
    rows = list(csv.DictReader((result.folder / "results.csv").read_text().splitlines()))
    assert len(rows) == 3 * (3 + 4)
    wild = [r for r in rows if r["method"] == "wild" and r["phase"] == "tune"]
    assert all("the loss became" in r["cause"] and r["lr"] == "1e+38" for r in wild)
    assert {r["momentum"] for r in wild} <= {"0.0", "0.9"}
    assert [r["index"] for r in wild] == ["0", "1", "2"]


def test_a_report_is_rebuilt_to_the_byte(result: Result):
    before = {p.name: p.read_bytes() for p in result.folder.iterdir() if p.suffix in (".html", ".json", ".csv", ".svg")}
    for name in ("report.html", "results.json", "results.csv", "curves.svg"):
        (result.folder / name).unlink()
    from downslope.referee.plan import read_plan

    with Store(result.folder, read_plan(result.folder)) as store:
        write(store)
    assert {name: (result.folder / name).read_bytes() for name in before} == before


def test_an_unfinished_race_has_no_report_yet(toy: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "run_trial", interrupted)
    with pytest.raises(KeyboardInterrupt):
        race(toy, methods=["sgd"], trials=1, seeds=2, folder=tmp_path, quiet=True)
    from downslope.referee.plan import read_plan

    with Store(tmp_path, read_plan(tmp_path)) as store, pytest.raises(RaceError, match="not finished: 3 of 3 trials"):
        write(store)


def test_the_median_curve_holds_the_last_value_of_a_run_that_has_ended():
    runs = [
        {"step": [0, 10], "second": [0.0, 1.0], "metric": [0.1, 0.9]},
        {"step": [0, 10, 20], "second": [0.0, 2.0, 4.0], "metric": [0.3, 0.5, 0.7]},
        {"step": [0, 10, 20], "second": [0.0, 3.0, 6.0], "metric": [0.2, 0.4, 0.6]},
    ]
    assert median_curve(runs) == {
        "step": [0, 10, 20],
        "median": [0.2, 0.5, 0.7],
        "low": [0.1, 0.4, 0.6],
        "high": [0.3, 0.9, 0.9],
    }


def test_numbers_are_written_as_people_read_them():
    assert [number(x) for x in (0.0, 1.0, 0.123456, 12345.6, 1e-7)] == ["0", "1", "0.123", "12 346", "1e-07"]
    assert [seconds_text(x) for x in (None, 2e-5, 0.0123, 5.0, 3700.0)] == [
        "–",
        "20 µs",
        "12.3 ms",
        "5 s",
        "1 h 02 min",
    ]
