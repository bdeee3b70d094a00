"""Two processes end where one does: FSDP2 and DDP, uneven and empty pieces, checkpoints over a change of their number.

One job of two processes (worker.py) trains everything; the tests compare its numbers with those of this process.
"""

import functools
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock

import downslope as ds
from downslope.testing.tolerances import close

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="torch without gloo"
)
HERE = Path(__file__).parent
TIMEOUT = 240


@functools.cache
def load_worker():
    spec = importlib.util.spec_from_file_location("worker", HERE / "worker.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


worker = load_worker() if torch.distributed.is_available() else None


@functools.cache
def alone(name, steps=worker.STEPS):
    torch.set_num_threads(1)
    return worker.values(worker.alone(name, steps)[0])


@pytest.fixture(scope="session")
def folder(tmp_path_factory, worker_id="master"):
    """The folder of the job's checkpoints and results; test processes beside this one share the job."""
    shared = "PYTEST_XDIST_WORKER" in os.environ
    base = tmp_path_factory.getbasetemp().parent if shared else tmp_path_factory.getbasetemp()
    job = base / "job"
    with FileLock(base / "job.lock"):
        if not (job / "results.pt").exists():
            job.mkdir(exist_ok=True)
            worker.save(job / "one", {name: worker.alone(name, worker.SAVED_AT) for name in worker.CHECKPOINTED})
            run(job)
    return job


def run(job):
    env = os.environ | {"PYTHONPATH": str(Path(ds.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, HERE / "worker.py"]
    processes = [
        subprocess.Popen([*command, str(rank), "2", job], env=env, stderr=subprocess.PIPE, text=True) for rank in (0, 1)
    ]
    try:
        errors = [process.communicate(timeout=TIMEOUT)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    failed = [error for process, error in zip(processes, errors, strict=True) if process.returncode]
    assert not failed, "\n".join(failed)


@pytest.fixture(scope="session")
def results(folder):
    return torch.load(folder / "results.pt")


def agree(found, expected, name, exact):
    assert not isinstance(found, str), found
    assert set(found) == set(expected)
    for parameter, value in expected.items():
        what = f"{name}: {parameter}"
        if exact:
            assert torch.equal(found[parameter], value), f"{what} differs"
        else:
            close(found[parameter], value, what)


def needs_all_at_once(name):
    return worker.make(name, worker.build())._plan.is_global


NAMES = [(wrapper, name) for wrapper, names in worker.NAMES.items() for name in names] if worker else []


@pytest.mark.parametrize(("wrapper", "name"), NAMES)
def test_two_processes_walk_the_path_of_one(results, wrapper, name):
    """Bit for bit, but where sums over all parameters are added up in another order."""
    found = results["same_batch"][wrapper, name]
    if name in worker.REFUSED:
        assert "Hutchinson's estimate" in found
        return
    start, end = worker.values(worker.build()), alone(name)
    assert any(not torch.equal(start[n], end[n]) for n in end)
    agree(found, end, name, exact=wrapper == "ddp" or not needs_all_at_once(name))


@pytest.mark.parametrize("name", worker.EMITTED if worker else ())
def test_kernels_take_pieces(results, name):
    """A sum over a piece is not a piece of a sum, so where norms are emitted the last bits may differ."""
    agree(results["kernels"][name], worker.values(worker.alone(name, execution="auto")[0]), name, exact=False)


@pytest.mark.parametrize("name", worker.IN_BACKWARD if worker else ())
def test_sharded_parameters_may_move_in_backward(results, name):
    agree(results["in_backward"][name], alone(name), name, exact=True)


@pytest.mark.parametrize("name", worker.WHOLE_STATE if worker else ())
def test_state_dicts_go_from_one_to_two_and_back(results, name):
    agree(results["whole_state"][name], alone(name), name, exact=not needs_all_at_once(name))


def test_averages_stand_in_for_sharded_parameters(results):
    model, opt = worker.alone("average")
    with opt.swapped("average"):
        expected = worker.values(model)
    agree(results["averages"], expected, "average", exact=False)


def test_roundings_are_drawn_for_the_whole_parameter(results):
    agree(results["rounding"], worker.values(worker.in_half(worker.build)), "stochastic rounding", exact=True)


@pytest.mark.parametrize("name", worker.HALVES if worker else ())
@pytest.mark.parametrize("wrapper", worker.WRAPPED if worker else ())
def test_halves_of_the_batch_are_the_batch(results, wrapper, name):
    agree(results["halves"][wrapper, name], alone(name), name, exact=False)


@pytest.mark.parametrize("name", worker.ABSENT if worker else ())
def test_a_gradient_on_one_process_alone_counts_as_zero_on_the_other(results, name):
    model = worker.build()
    opt = worker.make(name, model)
    for t in range(worker.STEPS):
        opt.zero_grad()
        opt.backward(worker.loss_of(model, t))
        model.norm.bias.grad = None
        if t % 2:
            model.hidden.weight.grad[5:] = 0.0  # the rows of the second process
        opt.step()
    agree(results["absent_gradients"][name], worker.values(model), name, exact=not needs_all_at_once(name))


@pytest.mark.parametrize("name", worker.LAYOUTS if worker else ())
@pytest.mark.parametrize("layout", ["2x1", "1x2", "mixed", "columns"])
def test_layouts_do_not_matter(results, layout, name):
    agree(results["other_layouts"][layout, name], alone(name), name, exact=not needs_all_at_once(name))


@pytest.fixture(scope="session")
def after_two(folder):
    """One process, from the checkpoint of two."""
    return worker.resumed(folder / "two", worker.build)


@pytest.mark.parametrize("name", worker.CHECKPOINTED if worker else ())
def test_checkpoints_go_on_under_another_number_of_processes(results, after_two, name):
    for pairs in (results["checkpoints"], after_two):
        found, steps, own = pairs[name]
        assert (steps, own) == (worker.STEPS, {worker.STEPS})
        agree(found, alone(name), name, exact=not needs_all_at_once(name))


def test_state_in_the_shape_of_a_parameter_is_sharded_with_it(results):
    of = results["state_and_manifest"]
    kinds = {"exp_avg": "DTensor", "exp_avg_sq": "DTensor", "momentum_buffer": "DTensor", "step": "int"}
    assert all(kind == kinds[key] for state in of["fsdp"]["kinds"].values() for key, kind in state.items())
    assert all(kind in ("Tensor", "int") for state in of["ddp"]["kinds"].values() for kind in state.values())


def test_the_manifest_counts_the_bytes_of_this_process(results):
    model = worker.build()
    opt = worker.make("muon", model)
    worker.train(opt, model, range(1))
    whole = {row.parameter: vars(row) for row in opt.manifest()}
    rows = {row["parameter"]: row for row in results["state_and_manifest"]["fsdp"]["rows"]}
    assert set(rows) == set(whole)
    for name, row in rows.items():
        same = ("shape", "dtype", "role", "why", "rule", "lr")
        assert {key: row[key] for key in same} == {key: whole[name][key] for key in same}
        length = row["shape"][0]
        assert row["state_bytes"] == whole[name]["state_bytes"] // length * ((length + 1) // 2)
        assert row["executor"].endswith(", sharded over 2")
    assert not any("sharded" in row["executor"] for row in results["state_and_manifest"]["ddp"]["rows"])


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        ("subspace", "ClipByGlobalNorm needs all parameters at once and cannot stand in a subspace of sharded ones"),
        ("loss", "PSPS: needs the loss of all processes"),
        ("codes", "state_dtype must be 'float32' for the state of ScaleByDAdaptAdam of sharded parameters; got '8bit'"),
        ("in backward", "cannot step inside backward, as its rule needs whole tensors and the model is sharded"),
        ("function", "the shape of OwnShape's pairs must be 'param' or 'scalar' for sharded parameters"),
    ],
)
def test_what_cannot_be_right_is_refused(results, attempt, words):
    assert words in results["refusals"][attempt]


def test_the_example_runs(results):
    assert 0 < results["example"] < 10
