"""Step inside backward: each parameter moves, and its gradient is freed, as soon as that gradient is complete."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.utils.hooks import RemovableHandle

from downslope._checks import ArgumentError
from downslope._core.admission import refuse_sparse
from downslope._core.transform import GlobalTransform
from downslope._engine.item import Context

if TYPE_CHECKING:
    from downslope._core.optimizer import Optimizer

__all__ = ["InBackward"]

_AVERAGES_LATER = {
    "DistributedDataParallel",
    "FullyShardedDataParallel",
}  # by name, as importing the second takes 0.5 s


class InBackward:
    """What `Optimizer.step_in_backward` returns: `remove()` undoes it, as does the end of a `with` block.

    A step is open from the first gradient of a backward until `Optimizer.step()`.
    """

    def __init__(self, opt: Optimizer, model: nn.Module) -> None:
        self._hooks: dict[Tensor, RemovableHandle] = {}
        self._moved: set[Tensor] = set()
        self._hyper: list[dict[str, Any]] | None = None  # of the open step
        self._removed = False
        _check_rule(opt)
        _check_model(opt, model)
        self.attach(opt)

    def attach(self, opt: Optimizer) -> None:
        """Serve an optimizer: the one it was made for, or its copy."""
        self._optimizer = weakref.ref(opt)
        self._lock = threading.Lock()  # backward has a thread for every device
        self._backward: Callable[[], object] = _nothing
        self._context: Context | None = None
        self._ways: dict[Tensor, tuple[dict[str, Any], dict[str, Any], Any]] = {}
        self._places: dict[Tensor, tuple[dict[str, Any], tuple[str, ...]]] = {}
        if not self._removed:
            self.watch()

    def watch(self) -> None:
        """Watch the parameters that are not watched yet and can have a gradient."""
        opt = self._optimizer()
        if opt is None:
            return
        for p in opt.parameters():
            if p in self._hooks or not p.requires_grad:
                continue
            if any(
                isinstance(hook, _Hook) and hook.handle() for hook in (p._post_accumulate_grad_hooks or {}).values()
            ):
                raise ArgumentError(
                    f"{type(opt).__name__}: {opt.info(p).label} already moves in backward by another optimizer; "
                    "call remove() of that one's handle."
                )
            self._hooks[p] = p.register_post_accumulate_grad_hook(_Hook(self))

    def remove(self) -> None:
        """Go back to the ordinary loop; a step that a backward has begun still ends with `step()`."""
        self._removed = True
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()
        opt = self._optimizer()
        if opt is not None and self._hyper is None and opt._in_backward is self:
            opt._in_backward = None

    def __enter__(self) -> InBackward:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __del__(self) -> None:
        for hook in self._hooks.values():
            hook.remove()

    def __getstate__(self) -> dict[str, Any]:
        return {"_hooks": {}, "_moved": self._moved, "_hyper": self._hyper, "_removed": self._removed}

    # ---------------------------------------------------------------- a step

    @torch.no_grad()
    def arrived(self, p: Tensor) -> None:
        """Move a parameter whose gradient is complete, and free the gradient."""
        opt = self._optimizer()
        if opt is None:
            return
        with self._lock:
            self._check_gradient(opt, p)
            if self._hyper is None:
                self._open(opt)
            if p not in self._places:
                return  # it was taken out of its param group
            self._move(opt, p)
            p.grad = None
            self._moved.add(p)

    def _move(self, opt: Optimizer, p: Tensor) -> None:
        """What `step` does with all parameters: go the way of the last step once more, or walk through the rule."""
        context, (group, route) = self._context, self._places[p]
        assert context is not None
        context.state, sign = {p: opt.state[p]}, -1.0 if opt._maximize else 1.0
        native: Any = opt._native
        if native is None or opt.needs:
            opt._walk([opt._item(p, group, route)], context)
            return
        known, alone, native._repeat = self._ways.get(p, (group, {"params": [p]}, None))
        if known is not group or not native.again([alone], sign, context):
            opt._walk([opt._item(p, group, route)], context, [alone])
            self._ways[p] = group, alone, native._repeat
        native._repeat = None

    def _check_gradient(self, opt: Optimizer, p: Tensor) -> None:
        owner, label = type(opt).__name__, opt.info(p).label
        if self._hyper is not None and self._backward() is None:
            raise ArgumentError(
                f"{owner}: a second backward came before step(), and gradients cannot accumulate where parameters move "
                "in backward; call step() after every backward (and use checkpoint(..., use_reentrant=False))."
            )
        if p in self._moved:
            raise ArgumentError(
                f"{owner}: the gradient of {label} came twice in one backward; "
                "use checkpoint(..., use_reentrant=False)."
            )
        if p.grad is None:
            raise ArgumentError(f"{owner}: another hook has freed the gradient of {label} before it could move.")
        if p.grad.is_sparse:
            refuse_sparse(opt)
        if not hasattr(p, "device_mesh") and _processes() > 1:
            raise ArgumentError(
                f"{owner}: the gradient of {label} is that of one process of {_processes()} while it arrives; "
                "shard the model with fully_shard, or take the step after backward."
            )
        opt._signals.require_loss(opt, "call optimizer.backward(loss) in place of loss.backward()")

    def _open(self, opt: Optimizer) -> None:
        token = _Token()
        _check_rule(opt)  # again, as sharded parameters may have been added
        self._context = opt._begin()
        self._places = {
            p: (group, route)
            for group, route in zip(opt.param_groups, opt._routes, strict=True)
            for p in group["params"]
        }
        # The backward holds the only reference to the token, so the token lives as long as it runs, however it ends.
        Variable._execution_engine.queue_callback(token)  # type: ignore[attr-defined]
        self._backward = weakref.ref(token)
        self._hyper = _hyperparameters(opt)

    def check_end(self, opt: Optimizer, closure: object) -> None:
        """Refuse a `step` that cannot end the open step as the ordinary loop would."""
        owner = type(opt).__name__
        if closure is not None:
            raise ArgumentError(
                f"{owner}: step takes no closure where parameters move in backward; call loss.backward(), then step()."
            )
        if "found_inf" in vars(opt):
            del opt.found_inf, opt.grad_scale  # type: ignore[attr-defined]
            raise ArgumentError(
                f"{owner}: the parameters have moved by the scaled gradients of a GradScaler, as they move in "
                "backward; start again without the scaler (in bfloat16, say), or without step_in_backward."
            )
        for before, now in zip(self._hyper or (), _hyperparameters(opt), strict=False):
            changed = [key for key, value in before.items() if now.get(key) != value]
            if changed:
                raise ArgumentError(
                    f"{owner}: {', '.join(changed)} changed after backward, in which the parameters have moved; "
                    "change hyperparameters before backward or after step()."
                )
        for p in self._moved:
            if p.grad is not None:
                raise ArgumentError(
                    f"{owner}: {opt.info(p).label} has moved in backward and has a gradient again; "
                    "call zero_grad() to drop it."
                )

    def end(self) -> None:
        """Close the open step, if there is one."""
        self._moved.clear()
        self._places = {}
        self._hyper = self._context = None
        if self._removed:
            self.remove()
        else:
            self.watch()


class _Token:
    """Called at the end of a backward that went well."""

    def __call__(self) -> None: ...


class _Hook:
    """Tells the handle of an optimizer that a gradient is complete; keeps neither of them alive."""

    def __init__(self, handle: InBackward) -> None:
        self.handle = weakref.ref(handle)

    def __call__(self, p: Tensor) -> None:
        handle = self.handle()
        if handle is not None:
            handle.arrived(p)


def _nothing() -> None:
    return None


def _hyperparameters(opt: Optimizer) -> list[dict[str, Any]]:
    plain = (bool, int, float, tuple, str, type(None))
    return [{k: v for k, v in group.items() if isinstance(v, plain)} for group in opt.param_groups]


def _processes() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def _check_rule(opt: Optimizer) -> None:
    owner = type(opt).__name__
    if opt._divided and opt._plan.needs_others:
        raise ArgumentError(
            f"{owner}: cannot step inside backward, as its rule needs whole tensors and the model is sharded over "
            "processes; call step() after backward."
        )
    for node in opt._plan.walk():
        name = type(node.transform).__name__
        if isinstance(node.transform, GlobalTransform):
            raise ArgumentError(
                f"{owner}: cannot step inside backward, as {name} needs the gradients of all parameters at once; "
                "call step() after backward."
            )
        if "previous_gradient" in node.transform.needs:
            raise ArgumentError(
                f"{owner}: cannot step inside backward, as {name} needs the gradient at the previous parameters; "
                "call step(closure)."
            )
        if getattr(node.transform, "curvature", None) == "hutchinson":
            raise ArgumentError(
                f"{owner}: cannot step inside backward, as {name} needs the graph of the gradients for its curvature; "
                "call step() after backward."
            )


def _check_model(opt: Optimizer, model: nn.Module) -> None:
    owner = type(opt).__name__
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"{owner}: model must be the module that is trained; got {type(model).__name__}.")
    if opt._in_backward is not None:
        raise ArgumentError(f"{owner}: its parameters move in backward already; call remove() of the handle first.")
    mine = set(opt.parameters())
    foreign = mine.difference(model.parameters())
    if foreign:
        label = min(opt.info(p).label for p in foreign)
        raise ArgumentError(f"{owner}: model must hold all parameters of the optimizer; it lacks {label}.")
    for module in model.modules():
        if _AVERAGES_LATER.intersection(each.__name__ for each in type(module).__mro__):
            raise ArgumentError(
                f"{owner}: cannot step inside the backward of {type(module).__name__}, which averages gradients after "
                "they have arrived; shard the model with fully_shard, or take the step after backward."
            )
        if getattr(module, "sparse", False) is True and mine.intersection(module.parameters(recurse=False)):
            raise ArgumentError(
                f"{owner}: cannot take sparse gradients; build its {type(module).__name__} with sparse=False."
            )
