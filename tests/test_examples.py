"""Examples that are run as they stand, with smaller numbers."""

import importlib.util
from pathlib import Path
from types import ModuleType

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_race_of_one_s_own_module_from_code(tmp_path):
    main = load("from_code").main
    result = main(target=0.5, steps=12, trials=1, seeds=1, folder=tmp_path / "r", quiet=True)
    (w,) = result.content["workloads"]
    assert (w["name"], w["workload"]["metric_name"], w["workload"]["steps"]) == ("Net", "accuracy", 12)
    use = {s["label"]: s["use"] for s in w["standings"]}
    assert all(f"ds.{name}(" in use[name.lower()] for name in ("AdamW", "SGD", "Muon"))
    assert all(t["cause"] is None for t in w["trials"])
    assert result.report.is_file()
