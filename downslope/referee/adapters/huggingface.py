"""From a Hugging Face `Trainer`: a workload that trains its model on its data, with its loss and its metrics.

The race's own loop trains, so that every method is timed and evaluated alike; model, batches, loss and evaluation are
the Trainer's. Needs the extra `transformers`.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from downslope.referee.adapters.module import EVALUATIONS, fresh_models
from downslope.referee.trial import unchanged
from downslope.referee.workload import Workload, WorkloadError

if TYPE_CHECKING:
    from transformers import Trainer

__all__ = ["from_trainer"]


def from_trainer(
    trainer: Trainer,
    *,
    target: float,
    metric: str = "eval_loss",
    goal: Literal["min", "max"] | None = None,
    name: str | None = None,
    steps: int | None = None,
    evaluate_every: int | None = None,
    keep_weights: bool = False,
    description: str = "",
) -> Workload:
    """A workload of a Trainer's model, data, loss and metrics.

    Batches come from its `get_train_dataloader` (in an order that follows the seed of the trial), the loss from its
    `compute_loss`, the metric from its `evaluation_loop` with its `compute_metrics`. Its optimizer, schedule, gradient
    clipping and callbacks are not used: what is raced is the method.

    Args:
        trainer: with `model_init`, `train_dataset` and `eval_dataset`. It is not changed.
        target: the metric that counts as reached.
        metric: a key of what `trainer.evaluate()` gives, with or without `eval_`.
        goal: `"min"` or `"max"`; known for a loss, and for the `metric_for_best_model` of the arguments.
        name: of the workload; the name of the model's class by default.
        steps: the budget of a run; `max_steps` of the arguments by default, else `num_train_epochs`.
        evaluate_every: steps between two evaluations; `eval_steps` of the arguments where these evaluate by steps, else
            one fortieth of the budget.
        keep_weights: for a Trainer that was given a model and no `model_init`: start every trial from its weights.
        description: the model and data in one line, for the report.

    Raises:
        WorkloadError: in one sentence, for a Trainer that needs what the race does not do.
    """
    from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback

    args = trainer.args
    _refuse(trainer)
    inner = copy.copy(trainer)  # with an accelerator and callbacks of its own, so that the caller's are left alone
    inner.create_accelerator_and_postprocess()
    inner.accelerator.prepare_model(nn.Identity(), evaluation_mode=True)  # or evaluation would wrap its first model
    inner.callback_handler = CallbackHandler([DefaultFlowCallback()], None, None, None, None)
    with unchanged():
        torch.manual_seed(args.seed)  # the sampler keeps the seed that is set when it is made
        train = _Shuffled(inner.get_train_dataloader())
    key = metric if metric.startswith("eval_") else f"eval_{metric}"
    steps = steps if steps is not None else _steps(args, train)
    if evaluate_every is None:
        by_steps = args.eval_strategy == "steps" and args.eval_steps and args.eval_steps >= 1
        evaluate_every = min(int(args.eval_steps), steps) if by_steps else max(1, steps // EVALUATIONS)
    return Workload(
        name=name or type(trainer.model).__name__,
        model=_models(inner, keep_weights=keep_weights),
        train=train,
        validation=inner.get_eval_dataloader(),
        loss=lambda model, batch: _loss(inner, model, batch),
        metric=lambda model, batches: _evaluate(inner, model, batches, key),
        metric_name=key.removeprefix("eval_"),
        goal=goal or _goal(args, key),
        target=target,
        steps=steps,
        evaluate_every=evaluate_every,
        description=description,
    )


def _refuse(trainer: Trainer) -> None:
    """What a Trainer may ask for and the race's loop does not do."""
    args = trainer.args
    refused = {
        "gradient_accumulation_steps": args.gradient_accumulation_steps != 1,
        "fp16": args.fp16,
        "deepspeed": trainer.is_deepspeed_enabled,
        "fsdp": trainer.is_fsdp_enabled,
        "torch_compile": args.torch_compile,
        "neftune_noise_alpha": args.neftune_noise_alpha is not None,
    }
    instead = {
        "gradient_accumulation_steps": "a race steps once per batch, so raise per_device_train_batch_size",
        "fp16": "use bf16, which needs no loss scaling",
    }
    for name, asked in refused.items():
        if asked:
            raise _wrong(f"`{name}` of the arguments cannot be raced; {instead.get(name, 'leave it out')}")
    if args.world_size > 1:
        raise _wrong(f"the Trainer runs on {args.world_size} processes; make it in a process of its own")
    for part in ("train_dataset", "eval_dataset"):
        if getattr(trainer, part) is None:
            raise _wrong(f"the Trainer has no {part}; give it one")
    if isinstance(trainer.eval_dataset, dict):
        raise _wrong(f"eval_dataset has several parts ({', '.join(trainer.eval_dataset)}); give the one that decides")


def _models(inner: Any, *, keep_weights: bool) -> Callable[[], nn.Module]:
    """Fresh models, in training mode and on the Trainer's device, as `train()` would have them."""
    if inner.model_init is None and not keep_weights:
        raise _wrong(
            "the Trainer has no `model_init`, so a seed cannot draw fresh weights; make it with one, or give "
            "keep_weights=True to start every trial from the weights of its model"
        )
    build = fresh_models(inner.model, keep_weights=True) if keep_weights else inner.call_model_init

    def model() -> nn.Module:
        new: Any = build().to(inner.args.device)
        if inner.args.gradient_checkpointing:
            new.gradient_checkpointing_enable(gradient_checkpointing_kwargs=inner.args.gradient_checkpointing_kwargs)
        return new.train()  # type: ignore[no-any-return]

    return model


def _steps(args: Any, train: _Shuffled) -> int:
    if args.max_steps > 0:
        return int(args.max_steps)
    try:
        return int(math.ceil(args.num_train_epochs * len(train)))
    except TypeError:
        raise _wrong("the training data have no length; give `steps`, or `max_steps` in the arguments") from None


def _goal(args: Any, key: str) -> Literal["min", "max"]:
    best = args.metric_for_best_model or ""
    if best.removeprefix("eval_") == key.removeprefix("eval_") and args.greater_is_better is not None:
        return "max" if args.greater_is_better else "min"
    if key.endswith("loss"):
        return "min"
    raise _wrong(f"whether a larger {key!r} is better is not known; give `goal`, 'min' or 'max'")


def _loss(inner: Any, model: nn.Module, batch: Any) -> Tensor:
    """The loss as a training step of the Trainer has it."""
    (inputs,), count = inner.get_batch_samples(iter([dict(batch)]), 1, inner.args.device)
    with inner.accelerator.autocast(), inner.compute_loss_context_manager():
        loss: Tensor = inner.compute_loss(model, inputs, num_items_in_batch=count)
    return loss


def _evaluate(inner: Any, model: nn.Module, batches: Iterable[Any], key: str) -> float:
    inner.model = inner.model_wrapped = model
    only_loss = True if inner.compute_metrics is None else None
    with inner.accelerator.autocast():
        metrics = inner.evaluation_loop(batches, "Evaluation", prediction_loss_only=only_loss).metrics
    if key not in metrics:
        raise ValueError(f"the Trainer's evaluation gives no {key!r}; it gives {', '.join(sorted(metrics))}")
    return float(metrics[key])


class _Shuffled:
    """The Trainer's loader, whose order follows torch's global random numbers.

    Accelerate gives it a sampler that takes its seed from the number of the pass; here that number is drawn.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        if hasattr(self._loader, "set_epoch"):
            self._loader.set_epoch(int(torch.randint(2**31 - 1, ())))
        with contextlib.closing(iter(self._loader)) as batches:  # a pass that is left tells accelerate so
            yield from batches


def _wrong(sentence: str) -> WorkloadError:
    return WorkloadError(f"from_trainer: {sentence}.")
