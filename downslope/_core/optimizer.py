"""Optimizer: a rule on a model, as a `torch.optim.Optimizer` in every respect that user code relies on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from downslope._checks import ArgumentError, checked_constructor, refuse
from downslope._core.admission import check_labels, check_needed, refuse_capture, refuse_sparse
from downslope._core.combinators import check_order, with_step
from downslope._core.enrol import enrol
from downslope._core.groups import Params, param_groups
from downslope._core.options import Execution, Options, executor_for
from downslope._core.plan import Node, Route, bind
from downslope._core.roles import ParamInfo, bare_model, role_by_name, roles
from downslope._core.scheduled import Scheduled, present
from downslope._core.signals import Signals
from downslope._core.state_dict import count_nothing, load_state, makes_state_only, packed
from downslope._core.swap import swapped
from downslope._core.transform import GlobalTransform, Transform
from downslope._engine import sharded
from downslope._engine.in_backward import InBackward
from downslope._engine.item import Context, Item
from downslope._engine.manifest import Manifest, row
from downslope._engine.reference import step
from downslope._engine.storage import Place, StateDtype, places

__all__ = ["Optimizer", "Options"]

_KEPT: tuple[str, ...] = ("_plan", "_signals", "_native", "_lr", "_maximize", "_stochastic", "seed", "_model_roles")
_KEPT += ("_info", "_routes", "_scheduled", "_in_backward", "_divided")
"""What a copy or a pickle of an optimizer has besides torch's own."""


class Optimizer(torch.optim.Optimizer):
    """Any rule as an optimizer; ready methods such as `ds.AdamW` are subclasses that bring theirs.

    Args:
        params: the model (best: names and roles are known), `model.named_parameters()`, tensors, or param groups.
        rule: a transform, usually a `chain`; `Descend()` is appended where it has no step.
        lr: learning rate, or a dict with one per label where the rule has a `partition`. It may be a schedule, as may
            every hyperparameter that is a float.
        tied: hyperparameters that several transforms of the rule share as one entry of the param groups.
        maximize, execution, seed, state_dtype, stochastic_rounding: see `Options`.

    Raises:
        ArgumentError: for a value, group or parameter that breaks a rule, in one sentence.
        UnknownArgument: for a keyword that does not exist, with the nearest that does.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> opt = ds.Optimizer(model, ds.chain(ds.ClipByGlobalNorm(1.0), ds.ScaleByAdam()), lr=1e-3)
    """

    _in_backward: InBackward | None = None

    _divided = False
    replicas: Any = None
    """The process group of the `DistributedDataParallel` model that the optimizer was given."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        init = checked_constructor(cls.__init__, cls.__name__, Options.__annotations__)
        cls.__init__ = init  # type: ignore[method-assign]

    def __init__(
        self,
        params: Params,
        rule: Transform,
        *,
        lr: Any = 1e-3,
        tied: tuple[str, ...] = (),
        maximize: bool = False,
        execution: Execution = "auto",
        seed: int = 0,
        state_dtype: StateDtype = "float32",
        stochastic_rounding: bool = False,
    ) -> None:
        owner = type(self).__name__
        if not isinstance(rule, Transform):
            refuse(owner, "rule", "a transform, such as ds.chain(ds.ScaleByAdam())", rule)
        for name, flag in (("maximize", maximize), ("stochastic_rounding", stochastic_rounding)):
            if not isinstance(flag, bool):
                refuse(owner, name, "True or False", flag)
        rule = with_step(rule)
        check_order(owner, rule)
        self._plan: Node = bind(rule, tied, owner, state_dtype)
        self._signals = Signals(self._plan)
        self._lr, self._maximize, self.seed = lr, maximize, int(seed)
        self._stochastic = stochastic_rounding
        self._model_roles = roles(bare_model(params)) if isinstance(params, nn.Module) else {}
        self._info: dict[Tensor, ParamInfo] = {}
        self._routes: list[Route] = []
        self.replicas = getattr(params, "process_group", None) if isinstance(params, nn.Module) else None
        self._scheduled = Scheduled()
        check_labels(owner, lr, self._plan)
        first = next(iter(lr.values())) if isinstance(lr, Mapping) else lr
        known = [self._plan.hyperparameters(route) for route in self._plan.routes]
        defaults = {"lr": first} | {k: v for k, v in known[0].items() if all(k in each for each in known)}
        super().__init__(param_groups(owner, params), {k: present(v, 0) for k, v in defaults.items()})
        check_needed(owner, self._plan, self._routes)
        self._native = executor_for(owner, execution, self._info)
        sharded.admit_processes(owner, self._plan, self.parameters(), self.replicas)

    # ---------------------------------------------------------------- param groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a param group; where the rule has a partition, one group per label that occurs in it.

        Keys are `params`, hyperparameters by name, and `role` (`"hidden"`, `"embedding"`, …) to say what they are.
        """
        count, infos = len(self.param_groups), self._info.copy()
        try:
            enrol(self, param_group)
        except Exception:  # all of it or nothing
            self._info = infos
            self._scheduled.forget(count)
            del self.param_groups[count:], self._routes[count:]
            raise
        if self._in_backward is not None:
            self._in_backward.watch()

    # ---------------------------------------------------------------- the step

    @property
    def steps(self) -> int:
        """How many steps this optimizer has taken."""
        return int(self._shared_so_far()["optimizer"]["steps"]) if hasattr(self, "state") else 0

    @property
    def needs(self) -> frozenset[str]:
        """What the loop must supply besides gradients: `loss`, `curvature`, `previous_gradient`."""
        return self._signals.needs

    @property
    def needs_graph(self) -> bool:
        """Whether the coming step wants `loss.backward(create_graph=True)`."""
        return self._signals.graph_due(self.steps + 1)

    def step(  # type: ignore[override]
        self, closure: Callable[[], Any] | None = None, *, loss: Tensor | float | None = None
    ) -> Any:
        """Take one step; returns what the closure returned.

        Args:
            closure: zeroes the gradients, computes the loss, differentiates it and returns it.
            loss: the loss of the batch, for methods that need it when there is no closure.

        Raises:
            ArgumentError: when a gradient or a signal cannot be taken; no parameter has moved then.
        """
        if torch.compiler.is_compiling():
            return self._step_untraced(closure, loss)
        return self._step(closure, loss)

    @torch.no_grad()
    def _step(self, closure: Callable[[], Any] | None, loss: Tensor | float | None) -> Any:
        refuse_capture(type(self).__name__)
        if self._in_backward is not None:
            self._in_backward.check_end(self, closure)
        makes_state = closure is None and loss is None and makes_state_only(self)
        returned = None if makes_state else self._signals.collect(self, closure, loss)
        if makes_state:
            self._signals.fill(self)
        context, sign = self._begin(makes_state), -1.0 if self._maximize else 1.0
        if not (
            self._native is not None
            and self._signals.absent(self)
            and self._native.again(self.param_groups, sign, context)
        ):
            refuse_sparse(self)
            absent_here = sharded.absent_here(self.parameters()) if context.together else set()
            self._walk(self._items(absent_here), context)
        context.shared["optimizer"]["steps"] += 1
        self._signals.clear()
        if makes_state:
            count_nothing(self)
        if self._in_backward is not None:
            self._in_backward.end()
        return returned

    _step_untraced = _disable_dynamo(_step)
    """Inside of a torch.compile of the user's: a step is a break of the graph, kernels are no business of Dynamo's."""

    def _walk(self, items: Iterable[Item], context: Context, groups: list[dict[str, Any]] | None = None) -> None:
        if self._native is not None:
            self._native.step(self._plan, self.param_groups if groups is None else groups, items, context)
        else:
            step(self._plan, items, context)

    def _begin(self, makes_state: bool = False) -> Context:
        """Let the schedules set the coming step's hyperparameters; harmless to repeat until the step is counted."""
        if not makes_state:
            self._scheduled.apply(type(self).__name__, self.param_groups, self.steps)
        max_lr = max(group["lr"] for group in self.param_groups)
        context = Context(self.state, self._shared(), self.steps + 1, max_lr, self._peers)
        context.together, context.makes_state = self._divided and self._plan.needs_others, makes_state
        return context

    def step_in_backward(self, model: nn.Module) -> InBackward:
        """Move every parameter and free its gradient as soon as backward has completed that gradient.

        The loop stays as it is (`loss.backward(); opt.step(); opt.zero_grad()`) and so do all numbers; only the
        gradients of all parameters are never there at one time. `step()` ends the step: it counts it, moves what has a
        gradient but was not met in backward, and runs hooks; schedulers follow it as ever. Hyperparameters hold from
        the first gradient of a backward on. Between backward and `step()` there is no gradient to clip, log or use
        again, and nothing to skip. A rule that needs the loss gets it from `opt.backward(loss)`.

        Every backward must be followed by `step()`. After one that raised midway, some parameters have moved and some
        have not: load a checkpoint, or go on with `step()`, which counts the step; another backward is refused.

        Args:
            model: the module that holds the parameters. It may hold others too, which keep their gradients.

        Returns:
            A handle: `remove()` goes back to the ordinary loop. In a `with` statement, the end of the block does.

        Raises:
            ArgumentError: for a rule that needs all gradients at once (a `global` scope such as clipping by the global
                norm), whole tensors of a sharded model, the gradient at the previous parameters or the graph of the
                gradients; for a model that lacks a parameter, makes sparse gradients, or averages gradients after they
                arrive (DistributedDataParallel). Later, in backward or `step`, for gradient accumulation, closures and
                `GradScaler`.

        Example:
            >>> model = torch.nn.Linear(2, 1)
            >>> opt = ds.AdamW(model, lr=1e-3)
            >>> with opt.step_in_backward(model):
            ...     model(torch.ones(3, 2)).sum().backward()
            ...     opt.step()
            >>> model.weight.grad is None, opt.steps
            (True, 1)
        """
        self._in_backward = InBackward(self, model)
        return self._in_backward

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether `GradScaler` is to show itself to `step`, which then refuses it."""
        return self._in_backward is not None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As in torch; also forgets the loss and the curvature of a step that was not taken."""
        super().zero_grad(set_to_none)
        self._signals.clear()

    def backward(self, loss: Tensor) -> None:
        """`loss.backward()`, and what the rule needs besides: the loss, and the curvature on the steps when it is due.

        Several calls before a step accumulate, as gradients do.
        """
        self._signals.backward(self, loss)

    def observe_curvature(
        self, estimate: Mapping[str, Tensor] | Sequence[Tensor] | None = None, *, scale: float = 1.0
    ) -> None:
        """Keep an estimate of the diagonal curvature for the coming step; it is saved with the state until then.

        Args:
            estimate: tensors by parameter name, or in the order of the parameters. Without it, scale·grad² of the
                present gradients: for Gauss–Newton–Bartlett, call this after `backward` on a loss whose labels were
                drawn from the model, zero the gradients, and go on with the real loss.
            scale: the number of drawn labels in that loss.
        """
        self._signals.observe(self, estimate, scale)

    def parameters(self) -> list[Tensor]:
        """All parameters, in the order of the param groups."""
        return [p for group in self.param_groups for p in group["params"]]

    def _items(self, absent_here: Collection[Tensor] = ()) -> Iterator[Item]:
        for group, route in zip(self.param_groups, self._routes, strict=True):
            taken = (p for p in group["params"] if p.grad is not None or p in absent_here)
            yield from (self._item(p, group, route) for p in taken)

    def _item(self, p: Tensor, group: dict[str, Any], route: Route) -> Item:
        sign = -1.0 if self._maximize else 1.0
        signals = self._signals.of(self.state[p], p, sign)
        return Item.of(p, self.info(p), group, route, self.state[p], sign, self.seed, signals, self._stochastic)

    def _peers(self, route: Route) -> tuple[ParamInfo, ...]:
        """The parameters that follow a route, in the order of their names."""
        groups = (group for group, own in zip(self.param_groups, self._routes, strict=True) if own == route)
        return tuple(sorted((self.info(p) for group in groups for p in group["params"]), key=lambda i: i.name or ""))

    def _shared(self) -> dict[str, dict[str, Any]]:
        """State that belongs to no single parameter: the step count, and the values of global transforms."""
        return self.state.setdefault("shared", {"optimizer": {"steps": 0}})  # type: ignore[call-overload, no-any-return]

    def initial_shared(self) -> dict[str, dict[str, Any]]:
        """What the values of global transforms start from."""
        found: dict[str, dict[str, Any]] = {}
        for group, route in reversed(list(zip(self.param_groups, self._routes, strict=True))):
            leaves = (node for node in self._plan.on(route) if isinstance(node.transform, GlobalTransform))
            found |= {node.key: node.initial_shared(group) for node in leaves}
        return found

    def _shared_so_far(self) -> dict[str, dict[str, Any]]:
        """As `_shared`, but an optimizer without state stays without: torch asks for that."""
        return self._shared() if "shared" in self.state else {"optimizer": {"steps": 0}}

    # ---------------------------------------------------------------- looking at it

    def info(self, p: Tensor) -> ParamInfo:
        """Name, shape and role of a parameter; of one that was put into a group by hand, what its shape tells."""
        if p not in self._info:
            self._info[p] = role_by_name(None, p)
        return self._info[p]

    def manifest(self) -> Manifest:
        """Which parameter got which rule and why, with its effective hyperparameters and the bytes of its state."""
        rows = []
        for index, (group, route) in enumerate(zip(self.param_groups, self._routes, strict=True)):
            for i, p in enumerate(group["params"]):
                found, ran = self.places(p, group), self._executor(route, group, p)
                where = (self._plan, route, index, i, group)
                rows.append(row(*where, p, self.info(p), self.state.get(p, {}), found, ran))
        return Manifest(type(self).__name__, tuple(rows))

    def _executor(self, route: Route, group: dict[str, Any], p: Tensor) -> str:
        if self._native is None:
            return "reference"
        low = [place.key for place in self.places(p, group) if place.form != "float32"]
        return self._native.executor(self._plan, route, group, p, low)

    def state_bytes(self) -> int:
        """Bytes of state kept for all parameters now (state is made at a parameter's first step)."""
        return self.manifest().state_bytes

    def shared_values(self, part: type[GlobalTransform]) -> Mapping[str, Any]:
        """The values that a global transform keeps for all parameters; before the first step, its initial ones.

        Args:
            part: the class of the transform; the first of that class in the rule is meant.
        """
        for node in self._plan.leaves():
            if isinstance(node.transform, part):
                group = next(g for g, r in zip(self.param_groups, self._routes, strict=True) if r in node.routes)
                return dict(self._shared_so_far().get(node.key) or node.initial_shared(group))
        raise ArgumentError(f"{type(self).__name__}: its rule has no {part.__name__}.")

    def hyperparameters(self, group: dict[str, Any]) -> set[str]:
        """The keys of a param group that the rule reads."""
        return {"lr", "base_lr", *self._plan.hyperparameters(self._route(group))}

    def _route(self, group: dict[str, Any]) -> Route:
        return self._routes[next(i for i, each in enumerate(self.param_groups) if each is group)]

    def places(self, p: Tensor, group: dict[str, Any]) -> list[Place]:
        """Where and how the slots of a parameter are stored."""
        return list(places(self._plan, self._route(group), group, self.info(p), p))

    def swapped(self, slot: str) -> AbstractContextManager[None]:
        """Put the tensors of a slot (an average, say) in place of the parameters for the time of a `with` block.

        Parameters that have no such slot yet keep their values.
        """
        return swapped(self, slot)

    # ---------------------------------------------------------------- saving

    def state_dict(self) -> dict[str, Any]:
        """As in torch; what belongs to no single parameter stands in the first param group, under `shared`.

        There `torch.distributed.checkpoint` keeps it; among the states it knows parameters only.
        """
        saved = super().state_dict()
        if "shared" in saved["state"]:
            saved["param_groups"][0]["shared"] = packed(saved["state"].pop("shared"), saved["state"])
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict()` gave, by parameter name where both sides know names, with every dtype kept.

        Raises:
            ArgumentError: when names, shapes, groups or the rule do not fit; the optimizer is unchanged then.
        """
        state_dict = state_dict.copy()  # for the hooks, as in torch
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            changed = pre_hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        load_state(self, state_dict)
        if self._in_backward is not None:
            self._in_backward.end()
        self._scheduled.write(self.param_groups, max(self.steps - 1, 0))  # schedules hold, not the values they once had
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {name: getattr(self, name) for name in _KEPT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self._in_backward is not None:
            self._in_backward.attach(self)
