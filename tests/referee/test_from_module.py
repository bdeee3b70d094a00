"""Workloads out of modules, loaders and losses, as training scripts have them."""

from __future__ import annotations

import copy
from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import downslope as ds
from downslope.referee import Workload, from_module
from downslope.referee.workload import WorkloadError

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(60, 4, generator=GENERATOR)
Y = X[:, :3].argmax(1)
PAIRS = [(X[i : i + 20], Y[i : i + 20]) for i in (0, 20, 40)]


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([t.detach().flatten().double() for t in model.state_dict().values()])


def seeded(workload: Workload, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return workload.model()


def test_what_is_not_given_is_derived_as_documented():
    w = from_module(net, PAIRS, PAIRS, loss="cross_entropy", target=0.9)
    assert (w.name, w.metric_name, w.goal, w.steps, w.evaluate_every) == ("net", "accuracy", "max", 30, 1)
    long = from_module(net(), PAIRS, PAIRS, loss="mse", target=0.9, steps=1000)
    assert (long.name, long.metric_name, long.goal, long.evaluate_every) == ("Sequential", "loss", "min", 25)


def test_race_of_a_module_and_loaders(tmp_path):
    train = DataLoader(TensorDataset(X, Y), batch_size=10, shuffle=True)
    workload = from_module(net(), train, PAIRS, loss=nn.CrossEntropyLoss(), metric="accuracy", target=0.8, name="mine")
    result = ds.race(workload, methods=["adamw", "sgd"], trials=2, seeds=2, folder=tmp_path / "r", quiet=True)
    assert type(result).__name__ == "Result"
    assert result.report.is_file()
    (w,) = result.content["workloads"]
    assert w["workload"]["steps"] == 60
    assert all(t["cause"] is None for t in w["trials"])
    assert any(t["steps_to_target"] for t in w["trials"])


def test_the_seed_decides_the_weights_of_a_copied_module():
    used = net()
    used(X)  # its batch norm has seen data
    workload = from_module(used, PAIRS, PAIRS, loss="cross_entropy", target=0.9)
    before = weights(used).clone()
    a, again, b = (weights(seeded(workload, s)) for s in (1, 1, 2))
    assert torch.equal(a, again)
    assert not torch.equal(a, b)
    assert torch.equal(weights(used), before)
    torch.manual_seed(1)
    built = net()
    torch.testing.assert_close(a, weights(built), rtol=0, atol=0)  # the same draws as a constructor's


@pytest.mark.parametrize(
    "part", [nn.MultiheadAttention(4, 2), nn.TransformerEncoderLayer(4, 2, 8), nn.BatchNorm1d(4, affine=False)]
)
def test_nothing_of_torch_s_own_modules_is_left_as_it_was(part: nn.Module):
    for t in part.state_dict().values():
        t.fill_(7)
    model = nn.Sequential(nn.Linear(2, 2), part)
    fresh = seeded(from_module(model, PAIRS, PAIRS, loss="mse", target=0.9), 3)
    assert not any((t == 7).any() for t in fresh[1].state_dict().values())


def test_kept_weights_are_where_every_trial_starts():
    model = net()
    workload = from_module(model, PAIRS, PAIRS, loss="cross_entropy", target=0.9, keep_weights=True)
    kept = weights(model).clone()
    with torch.no_grad():
        model[0].weight.zero_()  # what happens to the module later does not count
        seeded(workload, 1)[0].weight.zero_()
    assert torch.equal(weights(seeded(workload, 2)), kept)


def test_frozen_parameters_stay_and_tied_ones_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.front, self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight
            self.front.requires_grad_(False)

        def forward(self, x):
            return self.b(self.a(self.front(x)))

    model = Tied()
    fresh = seeded(from_module(model, PAIRS, PAIRS, loss="mse", target=0.9), 5)
    assert torch.equal(fresh.front.weight, model.front.weight)
    assert fresh.a.weight is fresh.b.weight
    assert not torch.equal(fresh.a.weight, model.a.weight)


class Dicts(nn.Module):
    """A model that takes and gives what those of Hugging Face do."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x, labels=None):
        logits = self.inner(x)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SimpleNamespace(loss=loss, logits=logits)


Pair = namedtuple("Pair", "x y")


@pytest.mark.parametrize(
    ("model", "batches", "options"),
    [
        (net, PAIRS, {"loss": "cross_entropy"}),
        (net, [list(b) for b in PAIRS], {"loss": F.cross_entropy, "metric": "accuracy"}),
        (net, [Pair(*b) for b in PAIRS], {"loss": nn.CrossEntropyLoss(), "metric": "accuracy"}),
        (Dicts, [{"x": x, "labels": y} for x, y in PAIRS], {"loss": "model", "metric": "accuracy"}),
        (Dicts, [{"x": x, "y": y} for x, y in PAIRS], {"loss": "cross_entropy", "labels": "y"}),
        (net, PAIRS, {"training_step": lambda m, b: F.cross_entropy(m(b[0]), b[1]), "metric": "accuracy"}),
    ],
)
def test_every_shape_of_batch_and_loss_gives_the_same_numbers(model: Any, batches: Any, options: Any):
    workload = from_module(model, batches, batches, target=0.9, **options)
    built = seeded(workload, 0)
    inputs, labels = PAIRS[0]
    built.eval()
    logits = getattr(built(inputs), "logits", built(inputs))
    torch.testing.assert_close(workload.loss(built, batches[0]), F.cross_entropy(logits, labels))
    with torch.no_grad():
        every = built(X)
        right = (getattr(every, "logits", every).argmax(1) == Y).double().mean().item()
        assert workload.metric(built, batches) == pytest.approx(right, abs=1e-12)


def test_the_loss_as_a_metric_is_the_mean_over_labels_not_over_batches():
    uneven = [(X[:50], Y[:50]), (X[50:], Y[50:])]
    workload = from_module(net, uneven, uneven, loss="cross_entropy", metric="loss", target=0.1)
    model = seeded(workload, 0).eval()
    with torch.no_grad():
        expected = F.cross_entropy(model(X), Y).item()
        assert workload.metric(model, uneven) == pytest.approx(expected, rel=1e-6)


def test_labels_that_cross_entropy_ignores_are_ignored_by_accuracy_and_mean_loss():
    labels = Y.clone()
    labels[10:50] = -100
    batches = [(X[:20], labels[:20]), (X[20:40], labels[20:40]), (X[40:], labels[40:])]
    model = net().eval()
    kept = labels != -100
    with torch.no_grad():
        accuracy = from_module(net, batches, batches, loss="cross_entropy", target=1.0).metric
        assert accuracy(model, batches) == pytest.approx((model(X[kept]).argmax(1) == Y[kept]).double().mean().item())
        loss = from_module(net, batches, batches, loss="cross_entropy", metric="loss", target=0.1).metric
        assert loss(model, batches) == pytest.approx(F.cross_entropy(model(X[kept]), Y[kept]).item(), rel=1e-6)


def test_classes_of_pixels_and_binary_labels():
    images = [(torch.randn(2, 3, 4, 4), torch.randint(5, (2, 4, 4)))]
    pixels = from_module(lambda: nn.Conv2d(3, 5, 1), images, images, loss="cross_entropy", target=0.9, name="pixels")
    model = seeded(pixels, 0)
    with torch.no_grad():
        right = (model(images[0][0]).argmax(1) == images[0][1]).double().mean().item()
        assert pixels.metric(model, images) == pytest.approx(right)
    flat = [(X, (Y > 0).long())]
    binary = from_module(
        lambda: nn.Linear(4, 1), flat, flat, loss="binary_cross_entropy", metric="accuracy", target=0.9, name="binary"
    )
    model = seeded(binary, 0)
    with torch.no_grad():
        logits = model(X).squeeze(1)
        assert binary.metric(model, flat) == pytest.approx(((logits > 0) == (Y > 0)).double().mean().item())
        expected = F.binary_cross_entropy_with_logits(logits, (Y > 0).float())
        torch.testing.assert_close(binary.loss(model, flat[0]), expected)


def test_a_metric_of_torchmetrics():
    torchmetrics = pytest.importorskip("torchmetrics")
    metric = torchmetrics.classification.MulticlassF1Score(num_classes=3, average="macro")
    workload = from_module(net, PAIRS, PAIRS, loss="cross_entropy", metric=metric, target=0.9)
    assert (workload.goal, workload.metric_name) == ("max", "MulticlassF1Score")
    model = seeded(workload, 0).eval()
    with torch.no_grad():
        first, again = workload.metric(model, PAIRS), workload.metric(model, PAIRS)
        expected = torchmetrics.functional.classification.multiclass_f1_score(model(X), Y, 3, average="macro").item()
    assert first == again == pytest.approx(expected, rel=1e-6)


def test_batches_are_moved_to_the_device_of_the_model():
    workload = from_module(net, PAIRS, PAIRS, loss=lambda output, labels: output.sum() + labels.sum(), target=0.9)
    assert workload.loss(net().to("meta"), PAIRS[0]).device.type == "meta"


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))


class Uncopied(nn.Linear):
    def __deepcopy__(self, memo):
        raise RuntimeError("holds a handle")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": nn.Sequential(nn.Linear(4, 4), Odd())}, r"submodule '1' \(Odd\) has parameters but no `reset_param"),
        ({"model": Odd()}, r"the model itself \(Odd\) has parameters but no `reset_parameters`"),
        ({"model": Uncopied(4, 3)}, r"the model cannot be copied \(holds a handle\); give a function that builds"),
        ({"model": 3}, "`model` must be a module or a function that gives a fresh one; got int"),
        ({"keep_weights": True}, "`keep_weights` is for a module"),
        ({"loss": None}, "give either `loss`, of .* or `training_step`"),
        ({"training_step": lambda m, b: 0}, "give either `loss`, of .* or `training_step`"),
        ({"loss": "crossentropy"}, "`loss` must be a function of .* or one of cross_entropy, .*; got 'crossentropy'"),
        ({"loss": 4}, "`loss` must be a function of"),
        ({"metric": "f1"}, "`metric` must be 'accuracy', 'loss', or a function of"),
        ({"metric": lambda m, b: 0.0}, "a metric of one's own needs `goal`"),
        ({"target": None}, "`target` must be a finite number"),
        (
            {"train": DataLoader(TensorDataset(X, Y), shuffle=True, generator=torch.Generator())},
            "has a `generator` of its own",
        ),
        ({"train": type("Endless", (), {"__iter__": lambda self: iter(PAIRS)})()}, "have no length, .* give `steps`"),
    ],
)
def test_what_cannot_be_raced_is_refused_in_one_sentence(change: dict[str, Any], sentence: str):
    given = {"model": net, "train": PAIRS, "validation": PAIRS, "loss": "cross_entropy", "target": 0.9, **change}
    with pytest.raises(WorkloadError, match=sentence) as refused:
        from_module(given.pop("model"), given.pop("train"), given.pop("validation"), **given)
    assert str(refused.value).count("\n") == 0


def test_a_missing_key_of_labels_is_named():
    batches = [{"x": x, "y": y} for x, y in PAIRS]
    workload = from_module(Dicts, batches, batches, loss="cross_entropy", target=0.9)
    with pytest.raises(ValueError, match="the batch has no 'labels' among x, y; name the key by labels="):
        workload.loss(Dicts(), copy.copy(batches[0]))
