"""Losses and metrics for workloads.

A batch is a sequence of tensors: all but the last are the model's arguments, the last is what it has to predict.
A loss takes `(model, batch)` and gives a scalar tensor; a metric takes `(model, batches)` and gives a number, the mean
over examples (not over batches). Both fit the fields of a `Workload` as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = [
    "accuracy",
    "auc",
    "average_precision",
    "binary_cross_entropy",
    "bits_per_token",
    "cross_entropy",
    "mean_absolute_error",
    "mean_loss",
    "mean_reciprocal_rank",
    "mean_squared_error",
    "perplexity",
    "rmse",
]

Batch = Sequence[Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]
Metric = Callable[[nn.Module, Iterable[Batch]], float]


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross entropy in nats: logits (..., classes) against class numbers (...)."""
    *inputs, target = batch
    return F.cross_entropy(model(*inputs).flatten(0, -2), target.flatten())


def binary_cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross entropy in nats of logits (B,) against labels (B,) of 0 and 1."""
    *inputs, target = batch
    return F.binary_cross_entropy_with_logits(model(*inputs), target.to(torch.float32))


def mean_squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """Mean of squared differences between predictions and targets of the same shape."""
    *inputs, target = batch
    return F.mse_loss(model(*inputs), target)


def mean_loss(loss: Loss) -> Metric:
    """The metric that is the mean of a loss over all predicted numbers (the last tensor's elements)."""

    def metric(model: nn.Module, batches: Iterable[Batch]) -> float:
        return _mean((loss(model, batch).item(), batch[-1].numel()) for batch in batches)

    return metric


def bits_per_token(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Cross entropy in bits per token; per character or per byte where these are the tokens."""
    return mean_loss(cross_entropy)(model, batches) / math.log(2)


def perplexity(model: nn.Module, batches: Iterable[Batch]) -> float:
    """exp of the cross entropy in nats per token; infinite where that overflows."""
    nats = mean_loss(cross_entropy)(model, batches)
    return math.exp(nats) if nats < 700 else math.inf


def accuracy(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Share, 0 to 1, of examples whose largest logit is the right one: logits (..., classes), class numbers (...)."""
    return _mean(
        ((model(*inputs).argmax(-1) == target).to(torch.float32).mean().item(), target.numel())
        for *inputs, target in batches
    )


def rmse(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Root of the mean squared difference, in the target's unit."""
    return math.sqrt(mean_loss(mean_squared_error)(model, batches))


def mean_absolute_error(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Mean absolute difference, in the target's unit."""
    return _mean(((model(*inputs) - target).abs().mean().item(), target.numel()) for *inputs, target in batches)


def auc(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties counting half.

    Scores (B,) against labels (B,) of 0 and 1. NaN where one of the two labels does not occur.
    """
    score, positive = _scored(model, batches)
    if np.isnan(score).any() or positive.all() or not positive.any():
        return math.nan
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # from 1, the mean rank where scores are equal
    p, n = int(positive.sum()), int((~positive).sum())
    return float((rank[positive].sum() - p * (p + 1) / 2) / (p * n))


def average_precision(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Area under the curve of precision by recall, as a sum of steps: each rise in recall times the precision there.

    Scores (B,) against labels (B,) of 0 and 1; equal scores are one step. The share of positives is what scores without
    information get. NaN where one of the two labels does not occur.
    """
    score, positive = _scored(model, batches)
    if np.isnan(score).any() or positive.all() or not positive.any():
        return math.nan
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)  # of each run of equal scores
    hits = np.cumsum(positive[order])[last]
    return float(np.sum(np.diff(hits, prepend=0) * hits / (last + 1)) / hits[-1])


def _scored(model: nn.Module, batches: Iterable[Batch]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The scores of all examples and whether each is positive."""
    scores, labels = [], []
    for *inputs, target in batches:
        scores.append(model(*inputs).double().cpu().numpy())
        labels.append(target.cpu().numpy() > 0.5)
    return np.concatenate(scores), np.concatenate(labels)


def mean_reciprocal_rank(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Mean of 1 / rank of the right answer among all candidates, filtered.

    Batches are (inputs..., known, answer): the model gives scores (B, candidates); `known` (B, candidates) is True
    for the other right answers, which are left out; ties count half.
    """

    def mean_of(batch: Batch) -> tuple[float, int]:
        *inputs, known, answer = batch
        scores = model(*inputs).double()
        right = scores.gather(1, answer[:, None])
        others = scores.masked_fill(known, -math.inf)
        above = (others > right).sum(1) + ((others == right).sum(1) - 1) / 2
        reciprocal = torch.where(right.isnan().squeeze(1), math.nan, 1 / (1 + above))
        return reciprocal.mean().item(), len(answer)

    return _mean(mean_of(batch) for batch in batches)


def _mean(parts: Iterable[tuple[float, int]]) -> float:
    """The mean of (mean, count) pairs, weighted by count; NaN of nothing."""
    total, number = 0.0, 0
    for value, count in parts:
        total += value * count
        number += count
    return total / number if number else math.nan
