"""Losses and metrics against their definitions, on batches of unequal size."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from downslope.referee import metrics


class Given(nn.Module):
    """Gives back what it is given: predictions are the first tensor of a batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def batches(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    return list(zip(*(t.split([5, 2]) for t in tensors)))


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(7, 3, generator=torch.Generator().manual_seed(0))


def test_accuracy_and_cross_entropy_are_means_over_examples(logits: Tensor) -> None:
    classes = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    data = batches(logits, classes)
    right = sum(int(row.argmax()) == int(c) for row, c in zip(logits, classes))
    assert metrics.accuracy(Given(), data) == pytest.approx(right / 7)
    nats = float(-F.log_softmax(logits.double(), 1)[range(7), classes].mean())
    assert metrics.mean_loss(metrics.cross_entropy)(Given(), data) == pytest.approx(nats)
    assert metrics.bits_per_token(Given(), data) == pytest.approx(nats / math.log(2))
    assert metrics.perplexity(Given(), data) == pytest.approx(math.exp(nats))


def test_uniform_logits_cost_the_logarithm_of_the_classes_at_every_token() -> None:
    data = [(torch.zeros(2, 4, 8), torch.ones(2, 4, dtype=torch.int64))]
    assert metrics.bits_per_token(Given(), data) == pytest.approx(3)
    assert metrics.perplexity(Given(), data) == pytest.approx(8)


def test_perplexity_does_not_overflow() -> None:
    data = [(torch.tensor([[0.0, 1e4]]), torch.tensor([0]))]
    assert metrics.perplexity(Given(), data) == math.inf


def test_rmse_and_mean_absolute_error() -> None:
    predicted, target = torch.arange(7.0), torch.tensor([0.0, 2, 2, 3, 4, 8, 6])
    data = batches(predicted, target)
    assert metrics.rmse(Given(), data) == pytest.approx(math.sqrt((1 + 9) / 7))
    assert metrics.mean_absolute_error(Given(), data) == pytest.approx(4 / 7)


def test_auc_counts_pairs_with_ties_as_half() -> None:
    score, label = torch.tensor([0.1, 0.4, 0.35, 0.8, 0.4, 0.2, 0.9]), torch.tensor([0, 0, 1, 1, 1, 0, 1])
    pairs = [
        1.0 if p > n else 0.5 if p == n else 0.0 for p in score[label == 1].tolist() for n in score[label == 0].tolist()
    ]
    assert metrics.auc(Given(), batches(score, label)) == pytest.approx(sum(pairs) / len(pairs))
    assert metrics.auc(Given(), batches(-score, label)) == pytest.approx(1 - sum(pairs) / len(pairs))


def test_auc_is_nan_where_it_is_not_defined() -> None:
    ones = torch.ones(7)
    assert math.isnan(metrics.auc(Given(), batches(torch.rand(7), ones)))
    assert math.isnan(metrics.auc(Given(), batches(torch.full((7,), math.nan), torch.tensor([0, 1, 0, 1, 0, 1, 0]))))


def test_average_precision_adds_precision_at_each_rise_of_recall() -> None:
    # By hand, best first: 1, 0, 1, 0, 0, 1 gives (1/1 + 2/3 + 3/6) / 3.
    score, label = torch.tensor([6.0, 5.0, 4.0, 3.0, 2.0, 1.0]), torch.tensor([1, 0, 1, 0, 0, 1])
    assert metrics.average_precision(Given(), [(score[:4], label[:4]), (score[4:], label[4:])]) == pytest.approx(
        (1 + 2 / 3 + 1 / 2) / 3
    )
    shuffled = torch.tensor([3, 0, 5, 1, 4, 2])
    again = metrics.average_precision(Given(), [(score[shuffled], label[shuffled])])
    assert again == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    # Equal scores are one step: 2 of 4 at the first threshold, 3 of 6 at the second.
    tied = torch.tensor([2.0, 2.0, 2.0, 2.0, 1.0, 1.0])
    assert metrics.average_precision(Given(), [(tied, label)]) == pytest.approx(2 / 3 * 2 / 4 + 1 / 3 * 3 / 6)
    assert metrics.average_precision(Given(), [(torch.zeros(6), label)]) == pytest.approx(3 / 6)


def test_average_precision_is_nan_where_it_is_not_defined() -> None:
    assert math.isnan(metrics.average_precision(Given(), [(torch.rand(4), torch.zeros(4))]))
    scores = torch.tensor([0.1, math.nan, 0.3, 0.4])
    assert math.isnan(metrics.average_precision(Given(), [(scores, torch.tensor([0, 1, 0, 1]))]))


def test_binary_cross_entropy_takes_whole_numbers_as_labels() -> None:
    loss = metrics.binary_cross_entropy(Given(), (torch.zeros(4), torch.tensor([0, 1, 1, 0])))
    assert loss.item() == pytest.approx(math.log(2))


def test_mean_reciprocal_rank_leaves_out_known_answers_and_halves_ties() -> None:
    scores = torch.tensor([[3.0, 2, 1, 0], [3, 2, 1, 0], [1, 1, 1, 0], [0, 1, 2, 3]])
    known = torch.zeros(4, 4, dtype=torch.bool)
    known[1, 0] = True
    answers = torch.tensor([1, 1, 0, 0])
    expected = (1 / 2 + 1 / 1 + 1 / 2 + 1 / 4) / 4
    assert metrics.mean_reciprocal_rank(Given(), [(scores, known, answers)]) == pytest.approx(expected)
    assert math.isnan(metrics.mean_reciprocal_rank(Given(), [(scores * math.nan, known, answers)]))


def test_nothing_has_no_mean() -> None:
    assert math.isnan(metrics.accuracy(Given(), []))
