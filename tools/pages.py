"""Write what is made from the cards: a page a method, the table in the README, the built-in workloads in
docs/referee.md, and the stub of the package.

python -m tools.pages            write
python -m tools.pages --check    say which are out of date, and which links lead nowhere; exit 1 if any
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path

import downslope
from downslope._card import Card
from downslope._registry import find, signature
from downslope.referee.data.packages import SOURCES
from downslope.referee.workloads import BUILT_IN

ROOT = Path(__file__).parents[1]
ROOMS = {
    "optim": "First-order update rules",
    "lowmem": "The same goal with less state",
    "curvature": "Hessian information",
    "tunefree": "No learning rate to set",
    "modifiers": "Around another rule",
    "clip": "Bounds on gradients",
    "schedule": "Numbers over time",
    "estimator": "Other gradients",
    "search": "Where hyperparameters come from",
}
STATUS = (
    "A method is `proved` when its four proofs stand ([which](../CONTRIBUTING.md)), else `partial`: its page says why."
)
MARKS = ("<!-- methods: made by tools/pages.py -->", "<!-- end of methods -->")
WORKLOAD_MARKS = ("<!-- workloads: made by tools/pages.py -->", "<!-- end of workloads -->")


def docstring(card: Card) -> str:
    """The first screen of a method file."""
    spec = importlib.util.find_spec(card.module)
    assert spec is not None
    assert spec.origin is not None
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""


def page(card: Card) -> str:
    """The page of a method."""
    head = docstring(card)
    source = f"../../../{card.module.replace('.', '/')}.py"
    arguments = "\n".join(f"| `{k}` | {f'`{v}`' if v else ''} |" for k, v in signature(card).items() if k != "params")
    tuning = "\n".join(f"| `{k}` | {words(v)} |" for k, v in (card.tuning or {}).items())
    parts = [
        f"# {card.name}",
        f"`{card.key}`" + "".join(f" · `{a}`" for a in card.aliases) + f" · [{card.module}]({source})",
        f"```text\n{head}\n```",
        "| | |\n|---|---|\n"
        f"| Paper | [{cell(card.paper)}]({card.url}) |\n"
        f"| Compared with | {cell(card.code)} |\n"
        f"| Scope | {card.scope}{', needs ' + ', '.join(card.needs) if card.needs else ''} |\n"
        f"| State | {cell(card.state)} |\n"
        f"| Defaults | {cell(card.defaults)} |\n"
        f"| Claim | {cell(card.claim)} |\n"
        f"| Found here | {cell(card.evidence)} |\n"
        f"| Status | {cell(card.status)} |",
    ]
    if arguments:
        parts.append(f"## Arguments of `{card.exports[0]}`\n\n| argument | default |\n|---|---|\n{arguments}")
    if tuning:
        parts.append(f"## Tuning space\n\n| argument | range |\n|---|---|\n{tuning}")
    return "\n\n".join(parts) + "\n"


def cell(text: str) -> str:
    """Text as it may stand in a table."""
    return text.replace("|", "\\|")


def words(space: tuple[object, ...]) -> str:
    """A tuning range in words."""
    kind, *values = space
    if kind == "choice":
        return "one of " + ", ".join(map(str, values))
    return f"{values[0]:g} to {values[1]:g}, {'whole numbers' if kind == 'int' else kind}"


def table(cards: list[Card], prefix: str) -> str:
    """The methods by room, with links to their pages."""
    lines = []
    for room, title in ROOMS.items():
        members = [c for c in cards if c.room == room]
        if not members:
            continue
        lines += [f"\n**{title}** ([how to choose]({prefix}{room}.md))\n", "| key | what it does | state | status |"]
        lines.append("|---|---|---|---|")
        for c in members:
            link = f"[`{c.key}`]({prefix}methods/{room}/{c.key}.md)"
            lines.append(f"| {link} | {cell(first(c))} | {cell(c.state)} | {c.status.split(':')[0]} |")
    return "\n".join(lines).strip() + "\n"


def workloads() -> str:
    """The built-in workloads: a table, and the card of each."""
    lines = ["| name | what is learned | target | budget |", "|---|---|---|---|"]
    parts = []
    for name, card in BUILT_IN.items():
        sign = "≥" if card.goal == "max" else "≤"
        goal = f"{card.metric_name} {sign} {card.target:g}"
        lines.append(f"| [`{name}`](#{name}) | {card.task} | {goal} | {card.steps:,} steps |")
        wheel = f"the wheel `{SOURCES[card.source][0].pinned}`, fetched once" if card.source else "in this package"
        items = [card.description, f"Data ({wheel}): {card.data}.", f"Licence: {card.licence}."]
        items += [f"Target: {goal} within {card.steps:,} steps, evaluated every {card.evaluate_every}."]
        items += [f"How it was set: {card.target_origin}."]
        items += [f"`{name}@{variant}`: {line}." for variant, (line, _) in card.variants.items()]
        parts.append(f"### {name}\n\n" + "\n".join(f"- {item.removesuffix('.')}." for item in items))
    return "\n".join(lines) + "\n\n" + "\n\n".join(parts) + "\n"


def between(text: str, marks: tuple[str, str], new: str) -> str:
    """A page with what stands between two marks made anew."""
    before, rest = text.split(marks[0])
    return f"{before}{marks[0]}\n{new}{marks[1]}{rest.split(marks[1])[1]}"


def first(card: Card) -> str:
    """The sentence that opens a method file, without the name."""
    sentence = docstring(card).split("\n\n")[0].replace("\n", " ").strip()
    return sentence.split(": ", 1)[-1].rstrip(".")


def stub(cards: list[Card]) -> str:
    """The stub of the package: every public name and where it lives."""
    homes = dict(downslope._HOMES)
    lines = [
        "# Made by tools/pages.py.",
        "from downslope import referee as referee",
        "from downslope import schedule as schedule",
    ]
    lines.append("from downslope import testing as testing")
    for card in cards:
        homes[card.module] = (*homes.get(card.module, ()), *card.exports)
    for home in sorted(homes):
        lines += [f"from {home} import {name} as {name}" for name in sorted(homes[home])]
    return "\n".join([*lines, "", "__version__: str", ""])


def wanted() -> dict[Path, str]:
    """All generated files and what they must say."""
    cards = find("*")
    files = {ROOT / "docs" / "methods" / c.room / f"{c.key}.md": page(c) for c in cards}
    files[ROOT / "docs" / "methods.md"] = f"# Methods\n\n{STATUS}\n\n{table(cards, '')}"
    files[ROOT / "downslope" / "__init__.pyi"] = stub(cards)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    files[ROOT / "README.md"] = between(readme, MARKS, table(cards, "docs/"))
    referee = ROOT / "docs" / "referee.md"
    files[referee] = between(referee.read_text(encoding="utf-8"), WORKLOAD_MARKS, workloads())
    return files


def dead_links() -> list[str]:
    """Relative links in the project's pages that lead nowhere."""
    found = []
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("records/**/*.md")]:
        text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
        for link in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in link and not (path.parent / link).exists():
                found.append(f"{path.relative_to(ROOT)}: {link}")
    return found


def main() -> int:
    """Write, or check."""
    files = wanted()
    stale = [p for p, text in files.items() if not p.exists() or p.read_text(encoding="utf-8") != text]
    extra = [p for p in ROOT.glob("docs/methods/*/*.md") if p not in files]
    if "--check" not in sys.argv:
        for path in stale:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path], encoding="utf-8")
        for path in extra:
            path.unlink()
        stale = extra = []
    faults = [f"out of date: {p.relative_to(ROOT)} (run `make format`)" for p in [*stale, *extra]]
    faults += [f"dead link in {link}" for link in dead_links()]
    sys.stdout.writelines(f"{fault}\n" for fault in faults)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
