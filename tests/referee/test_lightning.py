"""Lightning: a module raced as a workload, and Downslope's optimizers inside a real `Trainer.fit`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import downslope as ds
from downslope.referee import from_lightning, race
from downslope.referee.trial import run_trial
from downslope.referee.workload import WorkloadError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    L = pytest.importorskip("lightning", reason="the extra lightning is not installed")
    torchmetrics = pytest.importorskip("torchmetrics")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),  # of Lightning's own use of torch
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*`isinstance\\(treespec"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(56, 4, generator=GENERATOR)
Y = X[:, :3].argmax(1)


class Net(L.LightningModule):
    """Logs in every way that validation knows."""

    def __init__(self, key: str = "adamw") -> None:
        super().__init__()
        self.key = key
        self.net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        self.f1 = torchmetrics.classification.MulticlassF1Score(num_classes=3)

    def training_step(self, batch, batch_index):
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return {"loss": loss}

    def on_validation_epoch_start(self):
        self.seen = 0

    def validation_step(self, batch, batch_index):
        logits = self.net(batch[0])
        self.f1(logits, batch[1])
        self.log("val_f1", self.f1)
        self.log_dict(
            {"val_loss": F.cross_entropy(logits, batch[1]), "val_acc": (logits.argmax(1) == batch[1]).float().mean()}
        )
        self.log("val_rows", float(len(batch[0])), reduce_fx="sum")
        self.log("val_worst", F.cross_entropy(logits, batch[1]), reduce_fx="max")
        self.seen += len(batch[0])

    def on_validation_epoch_end(self):
        self.log("val_seen", float(self.seen))

    def configure_optimizers(self):
        opt = ds.make(self.key, self, lr=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda step: 1 - step / 40)
        return {"optimizer": opt, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Data(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(X[:32], Y[:32]), batch_size=8, shuffle=True)

    def val_dataloader(self):
        return DataLoader(TensorDataset(X[32:], Y[32:]), batch_size=16)  # the last batch is smaller


def trainer(folder: Path, **options: Any) -> Any:
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return L.Trainer(default_root_dir=folder, accelerator="cpu", devices=1, **quiet, **options)


def fixed_order() -> DataLoader:
    return DataLoader(TensorDataset(X[:32], Y[:32]), batch_size=8)


def seeded(build: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    return build()


# ----------------------------------------------------------------- as a workload


@pytest.mark.parametrize("monitor", ["val_loss", "val_acc", "val_f1", "val_rows", "val_worst", "val_seen"])
def test_validation_gives_what_a_trainer_gives(tmp_path: Path, monitor: str):
    w = from_lightning(Net, Data(), target=0.1, monitor=monitor, goal="max")
    model = seeded(w.model, 1).eval()
    with torch.no_grad():
        w.metric(model, list(w.validation)[:1])  # leaves nothing behind
        first, again = w.metric(model, w.validation), w.metric(model, w.validation)
    del model.log
    (theirs,) = trainer(tmp_path).validate(model, Data(), verbose=False)
    assert first == again == pytest.approx(theirs[monitor], rel=1e-6)


def test_what_is_not_given_is_derived_and_the_seed_decides():
    w = from_lightning(Net, Data(), target=0.1)
    assert (w.name, w.metric_name, w.goal, w.steps, w.evaluate_every) == ("Net", "val_loss", "min", 40, 1)
    a, again, b = (seeded(w.model, s).net[0].weight for s in (1, 1, 2))
    assert torch.equal(a, again)
    assert not torch.equal(a, b)
    copied = from_lightning(Net(), Data(), target=0.1, name="copied")
    torch.testing.assert_close(seeded(copied.model, 1).net[0].weight, a, rtol=0, atol=0)
    kept = Net()
    assert torch.equal(
        from_lightning(kept, Data(), target=0.1, keep_weights=True).model().net[0].weight, kept.net[0].weight
    )


def test_the_loss_is_that_of_the_training_step_on_the_device_of_the_module():
    w = from_lightning(Net, train=fixed_order(), validation=fixed_order(), target=0.1)
    model, batch = w.model(), next(iter(w.train))
    assert model.training
    torch.testing.assert_close(w.loss(model, batch), F.cross_entropy(model.net(batch[1][0]), batch[1][1]))
    elsewhere = from_lightning(Net, train=fixed_order(), validation=fixed_order(), target=0.1, device="meta")
    assert elsewhere.loss(elsewhere.model(), batch).device.type == "meta"


def test_a_lightning_module_is_raced(tmp_path: Path):
    w = from_lightning(Net, Data(), target=0.9, steps=12, evaluate_every=4)
    result = race(w, methods=["adamw", "sgd"], trials=1, seeds=1, quiet=True, folder=tmp_path / "r")
    trials = result.content["workloads"][0]["trials"]
    assert len(trials) == 4
    assert all(t["cause"] is None for t in trials)


class Observed(Net):
    """Notes what is called, and counts its own metric between the hooks of a validation batch."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[int] = []
        self.weight = None

    def setup(self, stage):
        assert stage == "fit"
        self.weight = torch.tensor([1.0, 5.0, 1.0])

    def configure_model(self):
        self.right = 0

    def training_step(self, batch, batch_idx):
        self.numbers.append(batch_idx)
        return F.cross_entropy(self.net(batch[0]), batch[1], weight=self.weight)

    def on_validation_batch_start(self, batch, batch_idx, dataloader_idx=0):
        self.first = batch_idx == 0

    def validation_step(self, batch, batch_idx):
        return (self.net(batch[0]).argmax(1) == batch[1]).sum()

    def on_validation_batch_end(self, outputs, batch, batch_idx, dataloader_idx=0):
        self.right = outputs if self.first else self.right + outputs

    def on_validation_epoch_end(self):
        self.log("val_right", float(self.right))


def test_training_and_validation_are_those_of_a_trainer(tmp_path: Path):
    loaders = {"train": fixed_order(), "validation": fixed_order()}
    w = from_lightning(Observed, **loaders, target=99, monitor="val_right", goal="max")
    models: list[Any] = []

    def make(model: Any, **hyper: Any) -> Any:
        models.append(model)
        return torch.optim.SGD(model.parameters(), lr=0.1)

    record = run_trial(w, make, {}, seed=1, steps=7, target=99, goal="max")
    theirs = seeded(Observed, 1)
    theirs.configure_optimizers = lambda: torch.optim.SGD(theirs.parameters(), lr=0.1)
    fit = trainer(tmp_path, max_steps=7)
    fit.fit(theirs, fixed_order())
    assert models[0].numbers == theirs.numbers == [0, 1, 2, 3, 0, 1, 2]
    for a, b in zip(models[0].parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "setup", lambda stage: None)
        (validated,) = fit.validate(theirs, fixed_order(), verbose=False)
    assert record.curve[-1].metric == validated["val_right"] > 0


def test_batches_that_are_empty_after_one_pass_are_refused():
    with pytest.raises(WorkloadError, match="`train` must be iterable more than once"):
        from_lightning(Net, train=iter(fixed_order()), validation=fixed_order(), target=0.1, steps=5)


class ByHand(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Clipped(Net):
    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None: ...


class Half(Net):
    def on_validation_model_train(self) -> None: ...


class Counting(Net):
    def on_train_epoch_end(self) -> None: ...

    def on_fit_start(self) -> None: ...


@pytest.mark.parametrize(
    ("module", "options", "sentence"),
    [
        (Clipped, {}, "Clipped has configure_gradient_clipping, which a race does not call; take it out to race it"),
        (Half, {}, "Half has on_validation_model_train, which a race does not call"),
        (nn.Linear, {}, "Linear is no LightningModule; from_module takes any other"),
        (Net, {"monitor": "val_acc"}, "whether a larger 'val_acc' is better is not known"),
        (Net, {"train": [1]}, "give either a datamodule, or both `train` and `validation`"),
        (Net, {"datamodule": None}, "give either a datamodule, or both `train` and `validation`"),
    ],
)
def test_what_cannot_be_raced_is_refused(module: Any, options: Any, sentence: str):
    given = {"datamodule": Data(), **options}
    with pytest.raises(WorkloadError, match=sentence):
        from_lightning(module, target=0.1, **given)


def test_a_module_that_steps_by_hand_is_refused_when_it_is_built():
    with pytest.raises(WorkloadError, match="steps its optimizers by hand"):
        from_lightning(ByHand, Data(), target=0.1).model()


def test_hooks_that_are_not_called_are_told_once():
    with pytest.warns(UserWarning, match="does not call on_fit_start and on_train_epoch_end of Counting") as told:
        assert from_lightning(Counting, Data(), target=0.1).model() is not None
    assert len(told) == 1


def test_a_monitor_that_is_not_logged_is_named():
    w = from_lightning(Net, Data(), target=0.1, monitor="loss")
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match="validation logs no 'loss', the monitor; it logs val_acc, val_f1"),
    ):
        w.metric(w.model().eval(), w.validation)


# ----------------------------------------------------------------- Downslope's optimizers in a Trainer


@pytest.mark.parametrize("key", ["adamw", "muon", "mars"])
@pytest.mark.parametrize(("clip", "accumulate"), [(None, 1), (0.05, 2)])
def test_fit_trains_as_a_plain_loop_does(tmp_path: Path, key: str, clip: float | None, accumulate: int):
    if key == "mars" and accumulate > 1:
        pytest.skip("the gradient of the last step is taken on the last batch alone, in a plain loop as well")
    model = seeded(lambda: Net(key), 0)
    fit = trainer(tmp_path, max_epochs=2, gradient_clip_val=clip, accumulate_grad_batches=accumulate)
    fit.fit(model, fixed_order())
    plain = seeded(lambda: Net(key), 0)
    opt = ds.make(key, plain, lr=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda step: 1 - step / 40)
    batches = [*fixed_order(), *fixed_order()]
    for i in range(0, len(batches), accumulate):

        def closure() -> torch.Tensor:
            opt.zero_grad()
            loss = torch.zeros(())
            for x, y in batches[i : i + accumulate]:  # noqa: B023 (called at once)
                loss = F.cross_entropy(plain.net(x), y) / accumulate
                loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(plain.parameters(), clip)
            return loss

        opt.step(closure)
        schedule.step()
    for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("key", ["adamw", "muon"])
def test_fit_resumes_from_its_checkpoint_to_the_same_bits(tmp_path: Path, key: str):
    def run(seed: int, epochs: int, **options: Any) -> tuple[Any, Any]:
        model = seeded(lambda: Net(key), seed)
        fit = trainer(tmp_path, max_epochs=epochs, gradient_clip_val=0.1)
        fit.fit(model, fixed_order(), **options)
        return model, fit

    whole, _ = run(0, 4)
    _, half = run(0, 2)
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed, fit = run(9, 4, ckpt_path=tmp_path / "half.ckpt")
    assert fit.global_step == 16
    for (name, a), b in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_method_that_differentiates_twice_says_what_to_do_and_that_works(tmp_path: Path):
    class Backward(Net):
        def backward(self, loss):
            self.optimizers().optimizer.backward(loss)

    with pytest.raises(ds.ArgumentError, match=r"call optimizer.backward\(loss\) in place of loss.backward\(\)"):
        trainer(tmp_path, max_epochs=1).fit(Net("sophia-h"), fixed_order())
    model = seeded(lambda: Backward("sophia-h"), 0)
    before = model.net[0].weight.detach().clone()
    trainer(tmp_path, max_epochs=1).fit(model, fixed_order())
    assert not torch.equal(model.net[0].weight, before)
