"""Emitted source: that the loops over elements become vector code, for every elementwise method of the registry."""

import subprocess

import pytest
import torch

import downslope as ds
from downslope._engine import build, native
from downslope._engine.emit import emit
from downslope._engine.kernels import runtime

COMPILER = build.compiler()
NEEDS_GRAPH = ("sophia-h",)  # its step wants curvature from the graph of the gradient
KEYS = [card.key for card in ds.find("*") if card.ready and card.scope == "element" and card.key not in NEEDS_GRAPH]

pytestmark = pytest.mark.skipif(
    COMPILER is None or COMPILER.clang or "g++" not in COMPILER.path.name, reason="reads what g++ reports"
)


def source_of(key, monkeypatch):
    """The kernel that a method steps a float32 vector with."""
    sources = []

    def recording(*args):
        sources.append(runtime() + emit(*args))
        return sources[-1]

    monkeypatch.setattr(native, "runtime", lambda: "")
    monkeypatch.setattr(native, "emit", recording)
    p = torch.nn.Parameter(torch.ones(40))
    p.grad = torch.ones(40)
    ds.make(key, [p], lr=0.1, execution="native").step()
    return sources[-1]


@pytest.mark.parametrize("key", KEYS)
def test_the_loop_over_elements_is_vector_code(key, tmp_path, monkeypatch):
    source = source_of(key, monkeypatch)
    lines = source.splitlines()
    loops = [i + 1 for i, line in enumerate(lines) if line.strip() == "for (i64 j = 0; j < m; ++j) {"]
    assert len(loops) == 1
    text = tmp_path / "kernel.cpp"
    text.write_text(source)
    command = [
        *COMPILER.command,
        *build._flags(COMPILER),
        "-fopt-info-vec-optimized",
        text,
        "-o",
        tmp_path / "kernel.so",
    ]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    where = {line.split(":")[1] for line in report.splitlines() if "loop vectorized" in line and text.name in line}
    assert {str(loops[0]), str(loops[0] + 1)} & where, f"the loop at line {loops[0]} stays scalar"
