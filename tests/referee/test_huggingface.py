"""Hugging Face: a `Trainer` raced as a workload, and Downslope's optimizers in a real one. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import downslope as ds
from downslope.referee import Workload, from_trainer, race
from downslope.referee.workload import WorkloadError

transformers = pytest.importorskip("transformers", reason="the extra transformers is not installed")
pytest.importorskip("accelerate", reason="the extra transformers is not installed")

CONFIG = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 8,
}


class Rows(Dataset):
    """Eight tokens; the label says whether the first one is large."""

    def __init__(self, count: int, seed: int) -> None:
        self.tokens = torch.randint(5, 50, (count, 8), generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"input_ids": self.tokens[i], "labels": int(self.tokens[i, 0] > 25)}


def bert() -> nn.Module:
    return transformers.BertForSequenceClassification(transformers.BertConfig(**CONFIG))


def right(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def trainer(folder: Path, *, model: Any = None, optimizers: Any = (None, None), **arguments: Any) -> Any:
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "num_train_epochs": 2,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        "dataloader_pin_memory": False,
        "data_seed": 1,
        **arguments,
    }
    return transformers.Trainer(
        model=model,
        model_init=None if model is not None else bert,
        args=transformers.TrainingArguments(**settings),
        train_dataset=Rows(32, 0),
        eval_dataset=Rows(40, 1),
        compute_metrics=right,
        optimizers=optimizers,
    )


def seeded(build: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    return build()


# ----------------------------------------------------------------- as a workload


def test_the_budget_comes_from_the_arguments(tmp_path: Path):
    w = from_trainer(trainer(tmp_path), target=0.1)
    assert (w.name, w.metric_name, w.goal) == ("BertForSequenceClassification", "loss", "min")
    assert (w.steps, w.evaluate_every) == (8, 1)
    asked = trainer(tmp_path, max_steps=60, eval_strategy="steps", eval_steps=15)
    w = from_trainer(asked, target=0.9, metric="eval_accuracy", goal="max", name="mine")
    assert (w.name, w.metric_name, w.goal, w.steps, w.evaluate_every) == ("mine", "accuracy", "max", 60, 15)
    best = trainer(tmp_path, metric_for_best_model="accuracy", greater_is_better=True)
    assert from_trainer(best, target=0.9, metric="accuracy").goal == "max"


def test_loss_and_metrics_are_the_trainer_s(tmp_path: Path):
    own = trainer(tmp_path, label_smoothing_factor=0.1)
    before = (own.model, own.accelerator, own.callback_handler)
    by_loss = from_trainer(own, target=0.1)
    by_accuracy = from_trainer(own, target=0.9, metric="accuracy", goal="max")
    model = seeded(by_loss.model, 3)
    assert model.training
    batch = next(iter(by_loss.train))
    model.eval()
    expected = nn.functional.cross_entropy(
        model(input_ids=batch["input_ids"]).logits, batch["labels"], label_smoothing=0.1
    )
    torch.testing.assert_close(by_loss.loss(model, batch), expected)
    assert "labels" in batch  # the Trainer takes labels out of what it is given
    with torch.no_grad():
        loss, accuracy = by_loss.metric(model, by_loss.validation), by_accuracy.metric(model, by_accuracy.validation)
    assert (own.model, own.accelerator, own.callback_handler) == before
    own.model = model
    theirs = own.evaluate()
    assert loss == pytest.approx(theirs["eval_loss"], rel=1e-6)
    assert accuracy == theirs["eval_accuracy"]


def test_the_seed_decides_weights_and_the_order_of_batches(tmp_path: Path):
    w = from_trainer(trainer(tmp_path, data_seed=None), target=0.1)
    own = trainer(tmp_path, data_seed=None)
    torch.manual_seed(5)  # what the process did before does not count
    same = from_trainer(own, target=0.1)

    def run(w: Workload, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        model = seeded(w.model, seed)
        passes = [torch.cat([b["input_ids"] for b in w.train]) for _ in range(2)]
        assert not torch.equal(*passes)
        return model.classifier.weight.detach().clone(), torch.cat(passes)

    (a, order), (b, other), (again, order_again), (_, elsewhere) = run(w, 1), run(w, 2), run(w, 1), run(same, 1)
    assert torch.equal(a, again)
    assert torch.equal(order, order_again)
    assert torch.equal(order, elsewhere)
    assert not torch.equal(a, b)
    assert not torch.equal(order, other)
    assert torch.equal(order[:32].sort(0).values, Rows(32, 0).tokens.sort(0).values)


def test_a_trainer_is_raced(tmp_path: Path):
    workload = from_trainer(trainer(tmp_path / "t"), target=0.6, name="tiny-bert", evaluate_every=4)
    options = {"trials": 1, "seeds": 1, "quiet": True}
    result = race(workload, methods=["adamw", "sgd"], folder=tmp_path / "r", **options)
    trials = result.content["workloads"][0]["trials"]
    assert len(trials) == 4
    assert all(t["cause"] is None for t in trials)
    assert all(t["steps"] in (4, 8) for t in trials)


def test_fine_tuning_starts_from_the_weights_of_the_model(tmp_path: Path):
    model = seeded(bert, 7)
    w = from_trainer(trainer(tmp_path, model=model), target=0.1, keep_weights=True)
    a, b = seeded(w.model, 1), seeded(w.model, 2)
    assert a is not b
    assert torch.equal(a.classifier.weight, model.classifier.weight)
    assert torch.equal(b.classifier.weight, model.classifier.weight)


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        (
            {"gradient_accumulation_steps": 2},
            {},
            "`gradient_accumulation_steps` of the arguments cannot be raced; a ra",
        ),
        ({"neftune_noise_alpha": 5.0}, {}, "`neftune_noise_alpha` of the arguments cannot be raced; leave it out"),
        ({}, {"metric": "accuracy"}, "whether a larger 'eval_accuracy' is better is not known; give `goal`"),
        ({}, {"keep_weights": True, "steps": 0}, "`steps` must be a whole number of steps above 0"),
        ({"model": bert}, {}, "has no `model_init`, so a seed cannot draw fresh weights"),
    ],
)
def test_what_cannot_be_raced_is_refused(tmp_path: Path, arguments: Any, options: Any, sentence: str):
    if "model" in arguments:
        arguments = {"model": arguments["model"]()}
    with pytest.raises(WorkloadError, match=sentence):
        from_trainer(trainer(tmp_path, **arguments), target=0.1, **options)


def test_a_metric_that_is_not_there_is_named(tmp_path: Path):
    w = from_trainer(trainer(tmp_path), target=0.1, metric="f1", goal="max")
    with torch.no_grad(), pytest.raises(ValueError, match="gives no 'eval_f1'; it gives eval_accuracy, eval_loss"):
        w.metric(w.model(), w.validation)


# ----------------------------------------------------------------- Downslope's optimizers in a Trainer


def optimizers(model: nn.Module, key: str) -> tuple[Any, Any]:
    opt = ds.make(key, model, lr=0.01)
    return opt, torch.optim.lr_scheduler.LambdaLR(opt, lambda step: 1 - step / 10)


class Texts(Rows):
    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"input_ids": self.tokens[i], "labels": self.tokens[i]}


def gpt() -> nn.Module:
    sizes = {"vocab_size": 50, "n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **dropout, bos_token_id=0, eos_token_id=0))


@pytest.mark.parametrize("key", ["adamw", "muon", "lion"])
def test_a_trainer_trains_with_it_as_a_plain_loop_does(tmp_path: Path, key: str):
    """A small GPT-2, with clipping, accumulation over two batches, and a schedule."""
    model = seeded(gpt, 0)
    before = model.transformer.wte.weight.detach().clone()
    own = trainer(
        tmp_path, model=model, optimizers=optimizers(model, key), gradient_accumulation_steps=2, max_grad_norm=0.3
    )
    own.train_dataset = Texts(32, 0)
    own.train()

    plain = seeded(gpt, 0)
    opt, schedule = optimizers(plain, key)
    loader = own.get_train_dataloader()
    for epoch in range(2):
        loader.set_epoch(epoch)
        batches = list(loader)
        for pair in (batches[:2], batches[2:]):
            _, count = own.get_batch_samples(iter(pair), 2, torch.device("cpu"))
            for batch in pair:
                plain(**batch, num_items_in_batch=count).loss.backward()
            assert nn.utils.clip_grad_norm_(plain.parameters(), 0.3) > 0.3
            opt.step()
            schedule.step()
            opt.zero_grad()
    assert not torch.equal(model.transformer.wte.weight, before)
    for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("key", ["adamw", "muon"])
def test_a_trainer_resumes_from_its_checkpoint_to_the_same_bits(tmp_path: Path, key: str):
    model = seeded(bert, 0)
    whole = trainer(tmp_path, model=model, optimizers=optimizers(model, key), save_strategy="steps", save_steps=4)
    whole.train()
    again = seeded(bert, 9)
    resumed = trainer(tmp_path, model=again, optimizers=optimizers(again, key), save_strategy="steps", save_steps=4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert resumed.state.global_step == whole.state.global_step == 8
    for (name, a), b in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name
