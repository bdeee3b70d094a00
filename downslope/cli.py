"""The command `downslope`: find and show methods, race them on a workload, rebuild a race's report.

Thin by rule: what it does stands in the library. `find`, `show` and `--help` import neither torch nor optuna.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app", "main"]

app = typer.Typer(
    help="Training methods for PyTorch, and a referee that says which is best on your workload.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

TUNING = "Tuning"
MACHINE = "On this machine"
BAD_INPUT, UNFINISHED, INTERRUPTED = 2, 1, 130


def main() -> None:
    """Run the command."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        from downslope import __version__

        typer.echo(f"downslope {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None: ...


@contextlib.contextmanager
def _one_sentence() -> Iterator[None]:
    """What the user did wrong, or what stopped a race, is one sentence on stderr and an exit code: no traceback."""
    from downslope._checks import ArgumentError, UnknownArgument, UnknownMethod
    from downslope.referee.errors import LeftToOthers, RaceError

    try:
        yield
    except LeftToOthers as error:
        code, sentence = 0, str(error)
    except RaceError as error:
        code, sentence = BAD_INPUT if error.bad_input else UNFINISHED, str(error)
    except (UnknownMethod, ArgumentError, UnknownArgument) as error:
        code, sentence = BAD_INPUT, str(error)
    except KeyboardInterrupt:
        code, sentence = INTERRUPTED, "stopped; finished trials are stored, and the same command goes on."
    else:
        return
    typer.echo(f"downslope: {sentence}", err=True)
    raise typer.Exit(code)


@app.command()
def find(
    pattern: Annotated[str, typer.Argument(help="Part of a name, or a pattern such as '*belief*'.")] = "*",
) -> None:
    """List the methods whose key or name matches."""
    from rich.console import Console
    from rich.table import Table

    from downslope._registry import find as find_cards

    with _one_sentence():
        found = find_cards(pattern)
        if not found:
            _refuse_nothing_found(pattern)
        console = Console(highlight=False)
        if not console.is_terminal:
            for card in found:
                typer.echo("\t".join((card.key, card.room, str(card.year), card.name)))
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("key", "room", "year", "name", "state", ""):
            table.add_column(column, overflow="fold")
        for card in found:
            table.add_row(card.key, card.room, str(card.year), card.name, card.state, "" if card.ready else "part")
        console.print(table)


def _refuse_nothing_found(pattern: str) -> None:
    from downslope._checks import UnknownMethod, nearest
    from downslope._registry import cards

    guess = nearest(pattern.strip("*"), cards())
    hint = f"did you mean {guess!r}?" if guess else "`downslope find` lists all."
    raise UnknownMethod(f"No method matches {pattern!r}; {hint}")


@app.command()
def show(key: Annotated[str, typer.Argument(help="A method's key, as `downslope find` lists it.")]) -> None:
    """Show a method's card: paper, formula, arguments, state, search space, evidence."""
    from downslope._registry import card as find_card
    from downslope._registry import signature

    with _one_sentence():
        card = find_card(key)
        arguments = ", ".join(f"{name}={default}" if default else name for name, default in signature(card).items())
        lines = {
            "paper": f"{card.paper}",
            "url": card.url,
            "formula": card.formula,
            "use": f"ds.{card.exports[0]}({arguments})",
            "also": ", ".join(card.exports[1:]),
            "scope": card.scope,
            "needs": ", ".join(card.needs) or "nothing but gradients",
            "state": f"{card.state} ({card.state_values:g} numbers per parameter value)",
            "defaults": card.defaults,
            "tuning": ", ".join(f"{k} {_spread(v)}" for k, v in (card.tuning or {}).items()),
            "claim": card.claim,
            "evidence": card.evidence,
            "compared with": card.code,
            "status": card.status,
        }
        typer.echo(f"{card.key} · {card.name} ({card.year}), room {card.room}")
        for name, text in lines.items():
            if text:
                typer.echo(f"  {name:<14}{text}")


def _spread(spread: tuple[object, ...]) -> str:
    kind, *values = spread
    if kind == "choice":
        return "{" + ", ".join(str(v) for v in values) + "}"
    return f"{values[0]} … {values[1]}" + (" (log)" if kind == "log" else "")


@app.command()
def race(
    workload: Annotated[
        list[str], typer.Argument(help="Names of built-in workloads, or Python files that return one.")
    ],
    methods: Annotated[str, typer.Option(help="Keys of methods, separated by commas; the first is the baseline.")],
    trials: Annotated[
        int | None, typer.Option(help="Tuning trials per method (default 8).", rich_help_panel=TUNING)
    ] = None,
    seeds: Annotated[int, typer.Option(help="Fresh runs per method at its tuned point.")] = 5,
    until_decided: Annotated[
        bool, typer.Option("--until-decided", help="Add seeds until the verdict is reached.")
    ] = False,
    max_seeds: Annotated[int | None, typer.Option(help="The most seeds with --until-decided (default 20).")] = None,
    compare: Annotated[
        str,
        typer.Option(
            help="pairs: all with each other; baseline: each with the first alone, for races of many methods."
        ),
    ] = "pairs",
    margin: Annotated[float, typer.Option(help="Differences up to this factor are equivalent; 0.05 is 5 %.")] = 0.05,
    budget: Annotated[float, typer.Option(help="Factor on the workload's number of steps.")] = 1.0,
    self_tuning: Annotated[
        bool, typer.Option("--self-tuning", help="The cards' defaults instead of tuning.", rich_help_panel=TUNING)
    ] = False,
    sampler: Annotated[
        str, typer.Option(help="Places tuning trials: quasi-random, random, tpe or gp.", rich_help_panel=TUNING)
    ] = "quasi-random",
    pruner: Annotated[
        str, typer.Option(help="Ends bad ones early: none, median, halving or hyperband.", rich_help_panel=TUNING)
    ] = "none",
    target: Annotated[
        str | None,
        typer.Option(help="The metric to reach instead of the workload's own; of several workloads, NAME=METRIC,…."),
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the race is kept (default: races/…).")] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="postgresql://user@host/database: the same command on several machines.", envvar="DOWNSLOPE_STORAGE"
        ),
    ] = None,
    wall_clock: Annotated[
        str | None, typer.Option(help="Begin no new trial after this time, such as 2h or 90m, and judge what is there.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Changes every random number of the race.")] = 0,
    log: Annotated[
        str, typer.Option(help="Loggers, separated by commas: tensorboard, csv, jsonl, wandb, mlflow.")
    ] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Only events as lines of JSON on stdout (docs/referee.md).")
    ] = False,
    jobs: Annotated[int, typer.Option(help="Trials at once on this machine.", rich_help_panel=MACHINE)] = 1,
    trial_seconds: Annotated[
        float | None,
        typer.Option(
            help="End a trial after so long (default: after 30 minutes without a step).", rich_help_panel=MACHINE
        ),
    ] = None,
    trial_memory: Annotated[
        str | None, typer.Option(help="End a trial that holds more, such as 4GB.", rich_help_panel=MACHINE)
    ] = None,
) -> None:
    """Race methods on workloads; the same command resumes a race, and a second one beside it helps."""
    with _one_sentence():
        from downslope.referee import race as run_race
        from downslope.referee.clock import seconds_of
        from downslope.referee.way import size

        signal.signal(signal.SIGTERM, signal.default_int_handler)
        result = run_race(
            workload,
            methods=_words(methods),
            trials=trials,
            seeds=seeds,
            until_decided=until_decided,
            max_seeds=max_seeds,
            compare=compare,
            margin=margin,
            budget=budget,
            self_tuning=self_tuning,
            sampler=sampler,
            pruner=pruner,
            target=None if target is None else _target(target),
            folder=folder,
            storage=storage,
            wall_clock=None if wall_clock is None else seconds_of(wall_clock),
            seed=seed,
            loggers=_words(log),
            quiet=as_json,
            events=_print_json if as_json else None,
            jobs=jobs,
            trial_seconds=trial_seconds,
            trial_memory=None if trial_memory is None else size(trial_memory),
        )
        if not as_json:
            typer.echo(str(result))
        if all(trial["cause"] for each in result.content["workloads"] for trial in each["trials"]):
            raise typer.Exit(UNFINISHED)


def _target(text: str) -> float | dict[str, float]:
    """A metric, or metrics by workload."""
    from downslope.referee.errors import refuse

    pairs = [part.rpartition("=")[::2] for part in _words(text)]
    try:
        metrics = [float(metric) for _, metric in pairs]
    except ValueError:
        metrics = []
    named = [name.strip() for name, _ in pairs]
    if not metrics or len(set(named)) < len(named) or (len(named) > 1 and "" in named):
        refuse(f"--target must be a number, or NAME=NUMBER for each workload, separated by commas; got {text!r}.")
    return dict(zip(named, metrics, strict=True)) if named[0] else metrics[0]


def _words(text: str) -> list[str]:
    """The parts between commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def _print_json(event: dict[str, object]) -> None:
    typer.echo(json.dumps(event, allow_nan=False))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a finished race.")],
    png: Annotated[bool, typer.Option("--png", help="Also write the figures as PNG (needs the extra png).")] = False,
) -> None:
    """Rebuild the report of a race from its folder; nothing in the folder is executed."""
    with _one_sentence():
        from downslope.referee.picture import write_png
        from downslope.referee.stored import rebuild

        result = rebuild(folder)
        if png:
            write_png(folder, result.content)
        typer.echo(str(result))


@app.command()
def score(
    table: Annotated[Path, typer.Argument(help="CSV of times to target: wide or long; an empty cell is a miss.")],
    tau: Annotated[float, typer.Option(help="Where the profile ends, in times the fastest.")] = 4.0,
    held_out: Annotated[str, typer.Option(help="Workloads that are held-out variants, separated by commas.")] = "",
    baseline: Annotated[
        str | None, typer.Option(help="Whose time the speed-ups are over (default: the first).")
    ] = None,
    budgets: Annotated[str | None, typer.Option(help="Time of a miss in speed-ups: workload=time,...")] = None,
    points: Annotated[int | None, typer.Option(help="Trapezoid rule on so many points (AlgoPerf: 100).")] = None,
    best_trial: Annotated[str, typer.Option(help="Best trial by 'time' or by 'evaluation'.")] = "time",
    picture: Annotated[Path | None, typer.Option("--profile", help="Draw the profiles into this SVG file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Score submissions over several workloads as AlgoPerf does, from a table of times."""
    with _one_sentence():
        from downslope.referee import drawing, scoreboard
        from downslope.referee.profiles import profile

        if picture is not None:
            drawing.check_path(picture)
        variants = _words(held_out)
        found = profile(
            table,
            tau=tau,
            held_out=variants,
            baseline=baseline,
            budgets=scoreboard.pairs(budgets, "--budgets"),
            points=points,
            best_trial=best_trial,
        )
        if picture is not None:
            drawing.save(picture, scoreboard.picture(found))
        scoreboard.report(found, as_json=as_json)


@app.command()
def trace(
    function: Annotated[
        str, typer.Argument(help="quadratic, rosenbrock, beale, himmelblau, river, saddle, rastrigin.")
    ],
    methods: Annotated[str, typer.Option(help="Keys of methods, separated by commas.")],
    trials: Annotated[int, typer.Option(help="Settings tried per method.")] = 32,
    steps: Annotated[int | None, typer.Option(help="Length of a path (default: the function's).")] = None,
    seed: Annotated[int, typer.Option(help="Of the settings and the noise.")] = 0,
    picture: Annotated[Path | None, typer.Option(help="The SVG file (default: trace-FUNCTION.svg).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the paths as JSON.")] = False,
) -> None:
    """Draw the paths of methods, each tuned, on a function of two variables."""
    with _one_sentence():
        from rich.console import Console

        from downslope.referee import drawing, tracepicture
        from downslope.referee.landscapes import landscape
        from downslope.referee.tracing import trace as run_trace

        path = picture or Path(f"trace-{landscape(function).name}.svg")
        drawing.check_path(path)
        with Console(stderr=True).status("tuning") as status:

            def told(method: str) -> None:
                status.update(f"tuning {method}")

            found = run_trace(function, _words(methods), trials=trials, steps=steps, seed=seed, progress=told)
        drawing.save(path, tracepicture.picture(found))
        tracepicture.report(found, path, as_json=as_json)


@app.command()
def workloads() -> None:
    """List the built-in workloads, their variants, and whether their data is here already."""
    from downslope.referee.listing import listing

    with _one_sentence():
        for line in listing():
            typer.echo(line)


if __name__ == "__main__":
    main()
