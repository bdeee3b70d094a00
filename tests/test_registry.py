"""Cards: readable without torch, true to the code, and open to other packages."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import downslope as ds
from downslope._checks import GLOSSARY, UnknownMethod
from downslope._core import GlobalTransform, Optimizer, Transform
from downslope._registry import cards, signature
from downslope.testing import problems

ALL = ds.find("*")
READY = [card for card in ALL if card.ready]


def test_cards_are_read_without_torch():
    code = (
        "import sys, downslope as ds\n"
        "from downslope._registry import signature\n"
        "assert len(ds.find('*')) > 30\n"
        "assert signature(ds.card('adamw'))['lr'] == '0.001'\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_find_by_pattern_and_by_part():
    assert [c.key for c in ds.find("adabel*")] == ["adabelief"]
    assert "adamw" in [c.key for c in ds.find("damw")]
    assert ds.find("no such thing") == []


def test_every_alias_finds_its_card():
    for card in ALL:
        for alias in card.aliases:
            assert ds.card(alias).key == card.key


@pytest.mark.parametrize("card", ALL, ids=lambda c: c.key)
def test_card_is_true_to_its_file(card):
    module = importlib.import_module(card.module)
    for name in card.exports:
        assert getattr(ds, name) is getattr(module, name)
        assert getattr(module, name).__doc__
    assert replaced(module.CARD, card) == card
    first = getattr(module, card.exports[0])
    assert card.ready == (isinstance(first, type) and issubclass(first, Optimizer))
    assert card.scope in ("element", "tensor", "global", "schedule", "search")
    assert card.url.startswith("https://")
    assert card.status == "proved" or card.status.startswith("partial: ")
    head = module.__doc__
    for heading in ("Paper:", "Memory:", "Differs from the paper:", "Differs from the authors' code:", "Reduces to:"):
        assert heading in head, f"{card.module}: the docstring lacks '{heading}'"


def replaced(declared, read):
    """The card in the module, with what the registry adds."""
    return type(declared)(**{**vars(declared), "room": read.room, "module": read.module})


@pytest.mark.parametrize("card", READY, ids=lambda c: c.key)
def test_tuning_space_is_made_of_arguments(card):
    arguments = signature(card)
    assert card.tuning, f"{card.key} has no tuning space"
    for name, (kind, *values) in card.tuning.items():
        assert name in arguments, f"{card.key} has no argument {name}"
        assert kind in ("log", "uniform", "int", "choice")
        assert values
        assert kind == "choice" or (len(values) == 2 and values[0] < values[1])


@pytest.mark.parametrize("card", READY, ids=lambda c: c.key)
def test_scope_and_needs_follow_from_the_rule(card):
    model = problems.language().build(torch.float64)
    opt = ds.make(card.key, model)
    parts = [node.transform for node in opt._plan.leaves()]
    widest = max(parts, key=lambda t: ("element", "tensor", "global").index(t.scope))
    assert card.scope == widest.scope
    assert set(card.needs) == set(opt.needs)


def test_hyperparameters_have_one_glossary():
    """Every live hyperparameter of every transform has an entry, so the same word means the same everywhere."""
    for card in ALL:
        module = importlib.import_module(card.module)
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Transform) and value not in (Transform, GlobalTransform):
                missing = [name for name in value.live() if name not in GLOSSARY]
                assert not missing, f"{value.__name__}: {missing} not in the glossary"


def test_a_method_of_another_package_joins(tmp_path, monkeypatch):
    source = Path(importlib.import_module("downslope.optim.adam").__file__).read_text(encoding="utf-8")
    (tmp_path / "other.py").write_text(source.replace('key="adam"', 'key="other-adam"').replace("Adam", "OtherAdam"))
    info = tmp_path / "other-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[downslope.methods]\nother = other\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    cards.cache_clear()
    try:
        assert ds.card("other-adam").module == "other"
        assert type(ds.make("other-adam", torch.nn.Linear(1, 1))).__name__ == "OtherAdam"
    finally:
        cards.cache_clear()


@pytest.mark.parametrize(("word", "key"), [("AdamW", "adamw"), ("SGD", "sgd"), ("ADABELIEF", "adabelief")])
def test_the_name_of_a_class_leads_to_its_method_and_not_to_a_neighbour(word: str, key: str):
    with pytest.raises(UnknownMethod, match=f"There is no method '{word}'; did you mean '{key}'"):
        ds.card(word)
