"""Hyperband: the paper's brackets, its proofs, and what it saves."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest

import downslope as ds
from downslope.search.hyperband import brackets, halve, hyperband

FIXTURES = Path(__file__).parents[1] / "fixtures"

# JMLR 18 (2018), table 1, R=81 and eta=3: (n_i, r_i) by bracket.
TABLE = {
    4: [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
    3: [(27, 3), (9, 9), (3, 27), (1, 81)],
    2: [(9, 9), (3, 27), (1, 81)],
    1: [(6, 27), (2, 81)],
    0: [(5, 81)],
}
# The same by its algorithm 1, n = ceil(B/R eta^s/(s+1)): 5*27/4 = 33.75, 5*9/3 = 15, 5*3/2 = 7.5.
ALGORITHM = TABLE | {
    3: [(34, 3), (11, 9), (3, 27), (1, 81)],
    2: [(15, 9), (5, 27), (1, 81)],
    1: [(8, 27), (2, 81)],
}


def test_the_brackets_of_the_papers_algorithm_and_of_its_table():
    assert brackets(81, 3) == [ALGORITHM[s] for s in (4, 3, 2, 1, 0)]
    assert brackets(81, 3, sizes="table") == [TABLE[s] for s in (4, 3, 2, 1, 0)]


@pytest.mark.parametrize(("R", "eta"), [(1, 3), (2.9, 3), (27, 3), (243, 3), (1000, 3), (125, 5), (64, 2), (100, 2.5)])
def test_brackets_spend_about_the_same_and_never_more_than_r_on_one(R: float, eta: float):
    found = brackets(R, eta)
    assert len(found) == 1 + max(s for s in range(12) if eta**s <= R)  # 243 = 3^5, though log(243, 3) < 5 in floats
    whole = len(found) * R  # B
    for rounds in found:
        assert rounds[-1][1] == R
        assert all(b == pytest.approx(eta * a) for (_, a), (_, b) in itertools.pairwise(rounds))
        assert all(n == math.floor(rounds[0][0] / eta**i + 1e-9) >= 1 for i, (n, _) in enumerate(rounds))
        spent = sum(n * r for n, r in rounds)
        assert 0.5 * whole <= spent <= whole + len(rounds) * R  # ceil(n) may add one configuration to each round
    assert found[-1] == [(len(found), R)]


def test_every_round_keeps_the_best():
    calls: list[tuple[int, float]] = []

    def train(config: int, resource: float) -> float:
        calls.append((config, resource))
        return abs(config - 7) + 1 / resource

    log = halve(list(range(9)), train, [(9, 1.0), (3, 3.0), (1, 9.0)])
    assert [c for c, r in calls if r == 1] == list(range(9))
    assert sorted(c for c, r in calls if r == 3) == [6, 7, 8]
    assert [c for c, r in calls if r == 9] == [7]
    assert [(e.config, e.resource) for e in log] == calls
    assert [(e.bracket, e.round) for e in log] == [(2, 0)] * 9 + [(2, 1)] * 3 + [(2, 2)]


def test_below_eta_it_is_random_search():
    draws = [5.0, 2.0]
    found = hyperband(iter(draws).__next__, lambda x, r: x * r, 2.0)
    assert [(e.config, e.resource) for e in found.log] == [(5.0, 2.0)]
    assert (found.best, found.loss, found.resource) == (5.0, 10.0, 2.0)


def test_the_best_is_the_smallest_loss_seen_and_nan_is_the_largest():
    losses = itertools.chain([math.nan, math.nan, 3.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0], itertools.repeat(math.nan))
    found = ds.hyperband(itertools.count().__next__, lambda x, r: next(losses), 9)
    assert (found.best, found.loss) == (2, 3.0)
    assert [e.config for e in found.log if (e.bracket, e.round) == (2, 1)] == [2, 3, 4]


def test_it_finds_more_with_the_same_resource_where_early_losses_tell():
    """Its stated property, on curves whose order is the same at every length."""

    def loss(height: float, resource: float) -> float:
        return height + 1 / resource

    better = 0
    for seed in range(20):
        draws = [((seed * 1000 + i) * 0.6180339887) % 1 for i in range(200)]
        found = hyperband(iter(draws).__next__, loss, 81)
        at_random = min(loss(h, 81) for h in draws[: round(found.resource / 81)])
        better += found.loss < at_random
    assert better >= 15


@pytest.mark.parametrize("case", ["eta 3", "eta 4"])
def test_rounds_and_survivors_are_those_of_the_authors_code(case: str):
    recorded = json.loads((FIXTURES / "hyperband.json").read_text())["cases"][case]
    R, eta = recorded["settings"]["R"], recorded["settings"]["eta"]

    def loss(k: int, resource: float) -> float:
        return 1 - (k * 0.6180339887498949 % 1) + (k * 0.7548776662466927 % 1) / resource

    brackets_run = 0
    for _, evaluations in itertools.groupby(recorded["evaluations"], key=lambda e: e[0]):
        theirs = [(k, r) for _, k, r in evaluations]
        first = [k for k, r in theirs if r == theirs[0][1]]
        lengths = sorted({r for _, r in theirs})
        assert lengths[-1] == R
        rounds = [(len(first) // eta**i, float(r)) for i, r in enumerate(lengths)]
        ours = halve(first, loss, rounds, eta)
        assert [(e.config, e.resource) for e in ours] == theirs
        brackets_run += 1
    assert brackets_run == 5


@pytest.mark.parametrize(
    ("R", "eta", "sentence"),
    [(0.5, 3, "R must be a finite number >= 1; got 0.5"), (9, 1, "eta must be a finite number > 1; got 1"),
     (math.inf, 3, "R must be"), (9, math.nan, "eta must be"), ("9", 3, "R must be")],
)  # fmt: skip
def test_bad_arguments_are_refused_before_anything_is_drawn(R: object, eta: float, sentence: str):
    with pytest.raises(ds.ArgumentError, match=f"hyperband: {sentence}"):
        ds.hyperband(lambda: pytest.fail("drawn"), lambda x, r: 0.0, R, eta=eta)


def test_it_is_no_optimizer():
    with pytest.raises(ds.UnknownMethod, match="ds.hyperband; call it with what is to be tuned"):
        ds.make("hyperband", [])
