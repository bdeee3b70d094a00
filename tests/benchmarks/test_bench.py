"""The benchmarks run, and what they derive is right; nothing here depends on how fast anything is."""

import json
import sys

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import inside, memory, overhead
from benchmarks.bandwidth import Bandwidth, compiler, runtimes
from benchmarks.bars import bars
from benchmarks.bench import app
from benchmarks.bound import bound_of
from benchmarks.clock import Spread, ratio, take_turns
from benchmarks.rivals import MATCHES, lanes, ours
from benchmarks.sets import SETS, tensors

SMALL = SETS["gpt2"].scaled(1e-4)

# Worked by hand from the update rules: what one pass, or each of two, reads and writes.
TRAFFIC = {
    "adamw": "reads grad p exp_avg exp_avg_sq, writes p exp_avg exp_avg_sq",
    "lion": "reads grad p exp_avg, writes p exp_avg",
    "sophia": "reads grad p exp_avg hessian, writes p exp_avg",
    "lars": "reads grad p, writes nothing; then reads grad p momentum_buffer, writes p momentum_buffer",
    "lamb": "reads grad p exp_avg exp_avg_sq, writes exp_avg exp_avg_sq; then reads p exp_avg exp_avg_sq, writes p",
    "novograd": "reads grad, writes nothing; then reads grad p exp_avg, writes p exp_avg exp_avg_sq",
    "dog": "reads grad p x0, writes nothing; then reads grad p, writes p",
}
# Streams read and written in each pass; the norms of NovoGrad and the like are no streams.
STREAMS = {
    "adamw": {(4, 3)},
    "lion": {(3, 2)},
    "sophia": {(4, 2)},
    "lars": {(2, 0), (3, 2)},
    "lamb": {(4, 2), (3, 1)},
    "novograd": {(1, 0), (3, 2)},
    "dog": {(3, 0), (2, 1)},
}


def stepped(key, shared, **options):
    lane = ours(key, shared.parameters, execution="reference", **options)
    lane.variants["downslope"]()
    return lane


def test_gpt2_small_has_its_tensors():
    assert len(SETS["gpt2"].shapes) == 148
    assert SETS["gpt2"].numel == 124_439_808
    assert [len(SETS[key].shapes) for key in ("small", "one", "tiny")] == [1000, 1, 148]


@pytest.mark.parametrize("key", TRAFFIC)
def test_traffic_is_that_of_the_formulas(key):
    shared = tensors(SETS["one"].scaled(1e-3))
    found = bound_of(key, stepped(key, shared).optimizer, shared.parameters)
    assert str(found.main) == TRAFFIC[key]
    assert set(found.streams) == STREAMS[key]


def test_bytes_are_those_of_the_stored_tensors():
    shared = tensors(SMALL)
    found = bound_of("adamw", stepped("adamw", shared).optimizer, shared.parameters)
    assert found.nbytes == 7 * shared.parameter_bytes


def test_matrix_products_are_noticed():
    shared = tensors(SMALL)
    found = bound_of("muon", stepped("muon", shared).optimizer, shared.parameters)
    assert {kind.matrix for kind, _ in found.kinds} == {True, False}  # its hidden matrices, and the rest under AdamW


def test_bound_is_the_bytes_over_the_bandwidth_of_each_shape():
    shared = tensors(SETS["one"].scaled(1e-3))
    found = bound_of("lamb", stepped("lamb", shared).optimizer, shared.parameters)
    plain = Bandwidth(shared.numel)
    assert found.seconds({(4, 2): [1.0, 2.0], (3, 1): [10.0, 20.0]}, plain) == pytest.approx([11.0, 22.0], rel=1e-4)


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
@pytest.mark.parametrize(("reads", "writes"), [(2, 0), (2, 1), (4, 3)])
def test_plain_kernel_writes_as_many_arrays_as_it_says(reads, writes):
    plain = Bandwidth(1000)
    run = plain.kernel(reads, writes)
    for x in plain._arrays:
        x.fill_(3.0)
    plain._arrays[0].fill_(30.0)
    run()
    assert sum(bool((x != 3.0).any()) for x in plain._arrays[1:]) == writes
    assert len(runtimes()) <= 1, "the plain kernel must run on torch's OpenMP runtime"


def test_gradients_written_to_are_noticed_and_restored():
    shared = tensors(SETS["tiny"])
    before = shared.gradients[5].clone()
    assert not shared.restore()
    shared.gradients[5].mul_(2)
    next(iter(shared.parameters.values())).grad = None
    assert shared.restore()
    assert torch.equal(shared.gradients[5], before)
    assert all(p.grad is g for p, g in zip(shared.parameters.values(), shared.gradients, strict=True))


def test_turns_are_taken_by_all_in_every_round():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    found = take_turns(calls, lambda: order.append("|"), seconds=0.0, least=3)
    assert [len(values) for values in found.values()] == [3, 3, 3]
    rounds = ["".join(dict.fromkeys(turn)) for turn in "".join(order).split("|")[4:]]
    assert rounds == list("abcbcacab")


def test_ratios_are_taken_within_a_round():
    assert ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0]) == Spread(2.0, 2.0, 2.0)


@pytest.mark.parametrize("key", [key for key, match in MATCHES.items() if match.torch])
def test_rivals_of_torch_step(key):
    shared = tensors(SETS["tiny"])
    for _, make in lanes(key, shared, compiled=False):
        if make.func.__name__ == "_torch":
            lane = make()
            for step in lane.variants.values():
                before = [p.detach().clone() for p in shared.parameters.values()]
                step()
                assert not any(torch.equal(p, b) for p, b in zip(shared.parameters.values(), before, strict=True))
            assert not shared.restore()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_extra_memory_is_what_a_step_touches():
    size = 48 * 2**20
    assert memory._extra(lambda: torch.ones(size // 4)) == pytest.approx(size, abs=2**21)
    assert memory._extra(lambda: None) < 2**21


def test_gradient_memory_of_the_ordinary_loop_is_all_gradients():
    peak, sizes = inside._peak("adamw", "reference", 8, 1, inside=False)
    assert peak == sum(sizes)


def test_overhead_compares_like_with_like():
    (row,) = overhead.measure(("fashion-mlp",), steps=1, seconds=0.0)
    assert row["trial"] > 0
    assert row["bare"] > 0


def a_step(key, over, **rivals):
    quicker = {label: {"slower": {"median": value}} for label, value in rivals.items()}
    return {"set": "gpt2", "method": key, "scope": "element", "over_bound": {"median": over}, "rivals": quicker}


def test_bars_take_the_worst_and_leave_open_what_was_not_measured():
    quick = {"pytorch_optimizer foreach": 5.0, "pytorch_optimizer for-loop": 3.0}
    steps = [a_step("adamw", 1.1, **{"torch fused": 1.25}), a_step("lion", 1.1, **quick), a_step("adam", 1.3)]
    judged = {bar.what: bar for bar in bars({"steps": steps})}
    assert judged["AdamW, 124M: over its byte bound"].met
    assert judged["AdamW, 124M: over torch fused"].measured == "0.8 ×"
    assert judged["every other element rule, 124M: over its byte bound"].met is False
    assert (
        "3 × (lion"
        in judged["every other element rule, 124M: pytorch_optimizer eager, its quicker way, over ours"].measured
    )
    assert judged["referee over a bare training loop"].met is None


def test_the_command_writes_a_record(tmp_path):
    options = ["--methods", "adamw", "--sets", "one,tiny", "--scale", "1e-3", "--seconds", "0", "--only", "steps"]
    done = CliRunner().invoke(app, [*options, "--execution", "reference", "--record", str(tmp_path)])
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "results.json").read_text())
    assert [(each["set"], each["method"]) for each in results["steps"]] == [("one", "adamw"), ("tiny", "adamw")]
    assert results["steps"][0]["state_bytes"] == 8 * results["steps"][0]["numel"]
    assert set(results["steps"][0]["rivals"]) == {"torch fused", "torch foreach", "torch for-loop"}
    text = (tmp_path / "README.md").read_text()
    assert "## The bars" in text
    assert "AdamW, 124M: over its byte bound" in text


def test_an_unknown_method_is_refused():
    done = CliRunner().invoke(app, ["--methods", "adamv"])
    assert done.exit_code != 0
    assert "adamv" in done.output
