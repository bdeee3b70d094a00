"""Who steps the same parameters: every ready method here, and the same rule in torch, pytorch_optimizer and heavyball.

The settings of `MATCHES` make the rivals do the same work (the same decay, momentum and rectification); the numbers
themselves change no time. A lane is one optimizer with its own state; its variants take turns on that state.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import downslope as ds
from benchmarks.sets import Tensors

__all__ = ["MATCHES", "Lane", "Match", "executor", "lanes", "ours"]

Step = Callable[[], Any]
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Match:
    """One rule in several libraries.

    Args:
        settings: of our method.
        torch: class in `torch.optim` and settings.
        pytorch_optimizer: class there and settings.
        heavyball: class there and settings.
    """

    settings: Settings = field(default_factory=dict)
    torch: tuple[str, Settings] | None = None
    pytorch_optimizer: tuple[str, Settings] | None = None
    heavyball: tuple[str, Settings] | None = None


_WD: Settings = {"weight_decay": 0.01}
_PLAIN: Settings = {**_WD, "rectify": False}  # with rectification pytorch_optimizer has the for-loop alone
_MOMENTUM: Settings = {"momentum": 0.9}

# What torch has, pytorch_optimizer takes over from there: it is no rival of its own in those rules.
MATCHES: dict[str, Match] = {
    "adabelief": Match(_PLAIN, pytorch_optimizer=("AdaBelief", _PLAIN)),
    "adabound": Match(_WD, pytorch_optimizer=("AdaBound", {**_WD, "weight_decouple": False})),
    "adagrad": Match(torch=("Adagrad", {})),
    "adam": Match(torch=("Adam", {})),
    "adamod": Match(_WD, pytorch_optimizer=("AdaMod", _WD)),
    "adamp": Match(_WD, pytorch_optimizer=("AdamP", _WD)),
    "adamw": Match(_WD, torch=("AdamW", _WD), heavyball=("AdamW", _WD)),
    "adan": Match(_WD, pytorch_optimizer=("Adan", _WD)),
    "d-adaptation": Match(pytorch_optimizer=("DAdaptAdam", {})),
    "d-adaptation-sgd": Match(_MOMENTUM, pytorch_optimizer=("DAdaptSGD", _MOMENTUM)),
    "diffgrad": Match(_WD, pytorch_optimizer=("DiffGrad", {**_WD, "weight_decouple": False})),
    "grams": Match(_WD, pytorch_optimizer=("Grams", _WD)),
    "lamb": Match(_WD, pytorch_optimizer=("Lamb", {**_WD, "max_grad_norm": 0.0})),
    "lars": Match(_WD, pytorch_optimizer=("LARS", {**_WD, **_MOMENTUM})),
    "lion": Match(_WD, pytorch_optimizer=("Lion", _WD)),
    "mars": Match(pytorch_optimizer=("MARS", {})),
    "nadam": Match(torch=("NAdam", {}), heavyball=("NAdam", {})),
    "novograd": Match(_WD, pytorch_optimizer=("NovoGrad", _WD)),
    "radam": Match(torch=("RAdam", {}), pytorch_optimizer=("RAdam", {})),
    "rmsprop": Match(torch=("RMSprop", {})),
    "sgd": Match(_MOMENTUM, torch=("SGD", _MOMENTUM), heavyball=("SGD", {"beta": 0.9})),
    "sgdp": Match({**_WD, **_MOMENTUM}, pytorch_optimizer=("SGDP", {**_WD, **_MOMENTUM})),
    "swats": Match(pytorch_optimizer=("SWATS", {})),
}


class Unavailable(Exception):
    """Something that cannot take part, with the reason in one line."""


@dataclass
class Lane:
    """One optimizer with its state.

    Args:
        library: where it comes from.
        optimizer: the optimizer.
        variants: a step by label; each one is a way to run this optimizer.
    """

    library: str
    optimizer: Any
    variants: dict[str, Step]

    @property
    def state_bytes(self) -> int:
        """Bytes of all state tensors now; a storage that several share counts once."""
        return sum({x.untyped_storage()._cdata: x.nbytes for x in _tensors(self.optimizer.state)}.values())


def ours(key: str, parameters: Mapping[str, nn.Parameter], **options: Any) -> Lane:
    """Our method on named parameters.

    Raises:
        Unavailable: if a step of it needs more than gradients and a loss.
    """
    settings = MATCHES.get(key, Match()).settings
    opt = ds.make(key, list(parameters.items()), **{**settings, **options})
    given: dict[str, Any] = {"loss": 1.0} if "loss" in opt.needs else {}
    return Lane("downslope", opt, {"downslope": partial(opt.step, **given)})


def executor(opt: Any) -> str:
    """What an optimizer of ours ran on, by its manifest."""
    found = sorted({row.executor for row in opt.manifest()})
    return found[0] if len(found) == 1 else "native in part" if any("native" in each for each in found) else "mixed"


def lanes(key: str, tensors: Tensors, *, compiled: bool) -> Iterator[tuple[str, Callable[[], Lane]]]:
    """The rivals in a rule, by library, to be built when their turn comes.

    Args:
        key: of our method.
        tensors: parameters and gradients.
        compiled: also with torch.compile, where a library offers it; that takes up to a minute to build.
    """
    match, parameters = MATCHES.get(key, Match()), list(tensors.parameters.values())
    if match.torch:
        yield "torch", partial(_torch, *match.torch, parameters)
    if match.pytorch_optimizer:
        yield "pytorch_optimizer", partial(_pytorch_optimizer, *match.pytorch_optimizer, parameters)
        if compiled:
            yield "pytorch_optimizer compiled", partial(_compiled, *match.pytorch_optimizer, parameters)
    if match.heavyball and compiled:
        yield "heavyball", partial(_heavyball, *match.heavyball, parameters)


def _torch(name: str, settings: Settings, parameters: list[nn.Parameter]) -> Lane:
    """fused, foreach and for-loop take turns on one state."""
    make = getattr(torch.optim, name)
    fusible = "fused" in inspect.signature(make).parameters
    opt = make(parameters, **settings, **({"fused": True} if fusible else {}))

    def step(way: str) -> None:
        for group in opt.param_groups:
            group["foreach"] = way == "foreach"
            if fusible:
                group["fused"] = way == "fused"
        opt.step()

    ways = ("fused", "foreach", "for-loop")[0 if fusible else 1 :]
    return Lane("torch", opt, {f"torch {way}": partial(step, way) for way in ways})


def _pytorch_optimizer(name: str, settings: Settings, parameters: list[nn.Parameter]) -> Lane:
    """foreach (what it does by default) and for-loop take turns on one state."""
    opt = getattr(_library("pytorch_optimizer"), name)(parameters, foreach=True, **settings)

    def step(foreach: bool) -> None:
        for group in opt.param_groups:
            group["foreach"] = foreach
        opt.step()

    ways = {"foreach": True, "for-loop": False}
    return Lane("pytorch_optimizer", opt, {f"pytorch_optimizer {way}": partial(step, on) for way, on in ways.items()})


def _compiled(name: str, settings: Settings, parameters: list[nn.Parameter]) -> Lane:
    """`create_optimizer(..., compile=True)`: foreach through torch.compile."""
    create = _library("pytorch_optimizer").create_optimizer
    opt = create(nn.ParameterList(parameters), name.lower(), wd_ban_list=(), compile=True, **settings)
    return Lane("pytorch_optimizer", opt, {"pytorch_optimizer compiled": opt.step})


def _heavyball(name: str, settings: Settings, parameters: list[nn.Parameter]) -> Lane:
    """As it comes: multi-tensor, its functions compiled; gradients are left in place, as all others leave them."""
    opt = getattr(_library("heavyball"), name)(parameters, consume_grad=False, **settings)
    return Lane("heavyball", opt, {"heavyball": opt.step})


def _library(name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except Exception as error:
        raise Unavailable(f"{name} is not here ({type(error).__name__}); pip install -e .[bench]") from error


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _tensors(value)
