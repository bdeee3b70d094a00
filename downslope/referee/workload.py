"""Workload: what is trained, on which data, for how many steps, and what counts as reached.

A workload is one of the three roles of a race (workload, recipe, protocol) and knows nothing of the other two.
It is a built-in (`load_workload("fashion-mlp")`) or comes from a Python file of the user's
(`load_workload("my_workload.py")`). After an `@` stands a variant of it (`load_workload("fashion-mlp@wide")`).
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import math
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from downslope.referee.workloads import BUILT_IN

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Workload", "WorkloadError", "builtin_workloads", "load_workload", "split_variant"]


class WorkloadError(ValueError):
    """A workload cannot be loaded or is not one; the message is one sentence that says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A model, its data, its loss, and the target that a method has to reach within a budget.

    Args:
        name: short; the race's folder and tables use it.
        model: gives a fresh model; called after `torch.manual_seed(seed)`, so the seed decides the initial weights.
        train: batches, iterable again and again: a `DataLoader`, a `Batches`, a list. One pass is one epoch. It
            should shuffle with torch's global random numbers, so that the seed decides the order.
        validation: batches, iterable again and again, always the same.
        loss: `loss(model, batch)` gives a scalar tensor to differentiate.
        metric: `metric(model, validation)` gives a number; the model is in eval mode and gradients are off.
        metric_name: what the number is, with its unit where it has one.
        goal: `"max"` when a larger metric is better, else `"min"`.
        target: the metric that counts as reached.
        steps: the budget of one run, in optimizer steps.
        evaluate_every: steps between two evaluations; also the resolution of "steps to target".
        processes: how many processes train together, each with this workload and a rank in one `torch.distributed`
            group, which stands when `model` is called; the workload wraps and shards by itself (`docs/referee.md`).
        description, data, licence, target_origin: texts of the card: the model in one line, the data and its split,
            the terms of the data, and how the target was set.
        variant_of: the name of the workload that this is a variant of: same data, target and budget, another model or
            batch size. In a race with that workload it is run at the point that was tuned there.

    Raises:
        WorkloadError: in one sentence, when a field is not what it must be.
    """

    name: str
    model: Callable[[], nn.Module]
    train: Iterable[Any]
    validation: Iterable[Any]
    loss: Callable[[nn.Module, Any], Tensor]
    metric: Callable[[nn.Module, Iterable[Any]], float]
    metric_name: str
    goal: Literal["min", "max"]
    target: float
    steps: int
    evaluate_every: int
    processes: int = 1
    description: str = ""
    data: str = ""
    licence: str = ""
    target_origin: str = ""
    variant_of: str = ""

    def __post_init__(self) -> None:
        for field in ("name", "metric_name"):
            value = getattr(self, field)
            self._require(isinstance(value, str) and bool(value.strip()), field, "a text that is not empty")
        self._require(not set(self.name) & set("/\\\n"), "name", "a text without slashes (folders are named by it)")
        for field in ("model", "loss", "metric"):
            self._require(callable(getattr(self, field)), field, "a function (pass the function, not its result)")
        for field in ("train", "validation"):
            self._check_batches(field)
        self._require(self.goal in ("min", "max"), "goal", "'min' or 'max'")
        finite = isinstance(self.target, Real) and not isinstance(self.target, bool) and math.isfinite(self.target)
        self._require(finite, "target", "a finite number")
        for field in ("steps", "evaluate_every", "processes"):
            value = getattr(self, field)
            whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
            self._require(whole, field, f"a whole number {'' if field == 'processes' else 'of steps '}above 0")
        self._require(self.evaluate_every <= self.steps, "evaluate_every", f"at most steps ({self.steps})")
        for field in ("description", "data", "licence", "target_origin", "variant_of"):
            self._require(isinstance(getattr(self, field), str), field, "a text")

    def reached(self, value: float) -> bool:
        """True when a metric is at the target or beyond it; NaN never is."""
        return value >= self.target if self.goal == "max" else value <= self.target

    def better(self, a: float, b: float) -> bool:
        """True when metric `a` is strictly better than `b`; any number is better than NaN."""
        if math.isnan(a) or math.isnan(b):
            return math.isnan(b) and not math.isnan(a)
        return a > b if self.goal == "max" else a < b

    def _check_batches(self, field: str) -> None:
        batches = getattr(self, field)
        self._require(not isinstance(batches, str) and hasattr(batches, "__iter__"), field, "an iterable of batches")
        again = "iterable more than once, such as a DataLoader or a list (a generator is empty after one pass)"
        self._require(not isinstance(batches, Iterator), field, again)
        try:
            count = len(batches)
        except TypeError:
            count = 1  # an iterable without a length: the first pass will tell
        self._require(count > 0, field, "at least one batch long")

    def _require(self, condition: bool, field: str, rule: str) -> None:
        if not condition:
            got = getattr(self, field)
            shown = repr(got) if isinstance(got, str | int | float | None) else f"a {type(got).__name__}"
            raise WorkloadError(f"Workload {str(self.name)!r}: `{field}` must be {rule}; got {shown}.")


def builtin_workloads() -> dict[str, str]:
    """The names of the built-in workloads, each with one line on what it is."""
    return {name: card.task for name, card in BUILT_IN.items()}


def load_workload(name_or_path: str | Path) -> Workload:
    """A built-in workload by its name, or the workload of a Python file; `@` and a name after it take a variant.

    A file gives its workload by a function without required arguments: the one named `workload`, or else the only
    function of the file that is annotated to return a `Workload`. The file is run as `python file.py` would run it
    (its folder is importable), but not as `__main__`. Its variants are what `VARIANTS` in the file lists: for each
    name the keyword arguments that the function is called with, such as `{"wide": {"width": 512}}`.

    Raises:
        WorkloadError: the name or the variant is unknown; the file is missing, raises, or returns something else; or
            the data of a built-in workload cannot be had. The message names file and line.

    Example:
        >>> load_workload("fashion-mlp").metric_name
        'cross entropy (nats)'
        >>> load_workload("fashion-mlp@wide").variant_of
        'fashion-mlp'
    """
    base, variant = split_variant(name_or_path)
    path = Path(base)
    if base not in BUILT_IN and (path.suffix == ".py" or path.is_file()):
        return _from_file(path, variant)
    if base not in BUILT_IN:
        near = difflib.get_close_matches(base, BUILT_IN, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"the built-in ones are {', '.join(BUILT_IN)}."
        raise WorkloadError(f"There is no workload {base!r}, and no such Python file: {hint}")
    card = BUILT_IN[base]
    line, settings = _pick(f"Workload {base!r}", card.variants, variant) if variant else ("", {})
    found = importlib.import_module(card.module).workload(**settings)
    assert isinstance(found, Workload)
    return _as_variant(found, variant, line) if variant else found


def split_variant(name_or_path: str | Path) -> tuple[str, str]:
    """What stands before and after the `@` of a workload's name or path; nothing after it where it has none.

    A path that exists as it stands is never split.
    """
    text = str(name_or_path)
    base, sign, variant = text.rpartition("@")
    if not sign or "/" in variant or "\\" in variant or Path(text).exists():
        return text, ""
    return base, variant


Choice = TypeVar("Choice")


def _pick(what: str, variants: Mapping[str, Choice], name: str) -> Choice:
    if name in variants:
        return variants[name]
    near = difflib.get_close_matches(name, variants, n=1)
    hint = f"it has {', '.join(variants)}." if variants else "it has none."
    raise WorkloadError(f"{what} has no variant {name!r}; {f'did you mean {near[0]!r}?' if near else hint}")


def _as_variant(base: Workload, variant: str, line: str) -> Workload:
    """The workload under the variant's name, with what is different in its card."""
    return dataclasses.replace(
        base,
        name=f"{base.name}@{variant}",
        variant_of=base.name,
        description=f"{base.description}; here with {line}",
        target_origin=f"That of {base.name}, which was not set for this variant: {base.target_origin}",
    )


def _from_file(path: Path, variant: str) -> Workload:
    if not path.is_file():
        raise WorkloadError(f"{path}: there is no such file; give the path of a Python file that returns a Workload.")
    module = _run(path)
    function = _factory(path, module)
    line = function.__code__.co_firstlineno
    required = [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    if required:
        raise WorkloadError(
            f"{path}, line {line}: {function.__name__}() must be callable without arguments; "
            f"give {', '.join(required)} a default."
        )
    settings = _settings(path, module, variant) if variant else {}
    try:
        found = function(**settings)
    except (Exception, SystemExit) as error:
        raise _raised(path, error, f"{function.__name__}()") from error
    if not isinstance(found, Workload):
        raise WorkloadError(
            f"{path}, line {line}: {function.__name__}() must return a downslope.referee.Workload; "
            f"got {type(found).__name__}."
        )
    shown = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    return _as_variant(found, variant, shown) if variant else found


def _settings(path: Path, module: ModuleType, variant: str) -> Mapping[str, Any]:
    """The keyword arguments of a variant that a file lists."""
    variants = getattr(module, "VARIANTS", {})
    good = isinstance(variants, Mapping) and all(isinstance(v, Mapping) for v in variants.values())
    if not good:
        raise WorkloadError(
            f"{path}: VARIANTS must give the keyword arguments of each variant, such as "
            f"{{'wide': {{'width': 512}}}}; got {variants!r}."
        )
    found: Mapping[str, Any] = _pick(str(path), variants, variant)
    return found


def _run(path: Path) -> ModuleType:
    """The file as a module, with its folder importable as when Python runs it."""
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    name = f"downslope_workload_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(
        name, path, loader=importlib.machinery.SourceFileLoader(name, str(path))
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that its classes can be pickled
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _raised(path, error, "the file") from error
    return module


def _factory(path: Path, module: ModuleType) -> FunctionType:
    own = {k: v for k, v in vars(module).items() if isinstance(v, FunctionType) and v.__module__ == module.__name__}
    if "workload" in own:
        return own["workload"]
    annotated = [function for function in own.values() if _returns_workload(function)]
    if len(annotated) == 1:
        return annotated[0]
    if annotated:
        names = ", ".join(f"{f.__name__} (line {f.__code__.co_firstlineno})" for f in annotated)
        raise WorkloadError(f"{path}: several functions return a Workload: {names}; name the one to race `workload`.")
    raise WorkloadError(
        f"{path}: no function returns a Workload; write one, beginning with `def workload() -> Workload:`."
    )


def _returns_workload(function: FunctionType) -> bool:
    returns = function.__annotations__.get("return")
    return returns is Workload or (isinstance(returns, str) and returns.strip("'\" ").split(".")[-1] == "Workload")


def _raised(path: Path, error: BaseException, what: str) -> WorkloadError:
    """One sentence on what a user's file raised: its innermost line, the error, and which part was running."""
    reason = next(iter(str(error).strip().splitlines()), "no message")
    if isinstance(error, SyntaxError) and error.filename:
        return WorkloadError(f"{error.filename}, line {error.lineno}: this is not valid Python: {error.msg}.")
    here = str(path.resolve())
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if str(Path(f.filename).resolve()) == here]
    where = f"{path}, line {lines[-1]}" if lines else str(path)
    if isinstance(error, WorkloadError):
        return type(error)(f"{where}: {reason}")
    unknown = re.fullmatch(r"Workload\.__init__\(\) got an unexpected keyword argument '(\w+)'", reason)
    if unknown:
        known = [field.name for field in dataclasses.fields(Workload)]
        near = difflib.get_close_matches(unknown[1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}."
        return WorkloadError(f"{where}: a Workload has no {unknown[1]!r}; {hint}")
    return WorkloadError(f"{where}: {what} raised {type(error).__name__}: {reason}")
