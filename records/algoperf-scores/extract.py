"""Extract the times to target from AlgoPerf's public logs into the tables of this folder.

    git clone https://github.com/mlcommons/submissions_algorithms
    python records/algoperf-scores/extract.py submissions_algorithms

Reads the commit below through git, so the state of the working tree does not matter.
"""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

COMMIT = "12c8e4ea93dc41a1ff6abc3debba9accd8ac1e3a"
HERE = Path(__file__).parent
TARGETS = {"algoperf_v05": "scoring/workload_targets_v05.json", "algoperf_v06": "scoring/workload_targets.json"}
HIGHER_IS_BETTER = {"accuracy", "ssim", "mean_average_precision", "bleu"}
COLUMNS = ["submission", "workload", "study", "trial", "evaluation", "time"]


def main(repository: str) -> None:
    """Write one table per leaderboard."""
    tree = _git(repository, "ls-tree", "-r", "--name-only", COMMIT, "previous_leaderboards/").splitlines()
    paths = [p for p in tree if p.endswith("/eval_measurements.csv")]
    targets = {v: json.loads(_git(repository, "show", f"{COMMIT}:{p}")) for v, p in TARGETS.items()}
    tables: dict[str, list[list[object]]] = {}
    for path, text in zip(paths, _contents(repository, paths), strict=True):
        parts = path.split("/")
        if len(parts) != 9:
            sys.stderr.write(f"left out, not in the folder of a workload: {path}\n")
            continue
        _, version, _, ruleset, submission, study, workload, trial, _ = parts
        workload = workload.rsplit("_", 1)[0]  # _jax, _pytorch
        known = targets[version]
        if workload not in known["base_workloads"] + known["held_out_workloads"]:
            continue
        target = known["workloads"][workload]
        hit = _first_hit(text, target["target_metric_name"], target["validation_target_value"])
        row = [submission, workload, study.removeprefix("study_"), trial.removeprefix("trial_"), *hit]
        tables.setdefault(f"{version.removeprefix('algoperf_')}-{ruleset.removesuffix('_tuning')}", []).append(row)
    for name, rows in tables.items():
        with (HERE / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


def _first_hit(text: str, metric: str, target: float) -> tuple[object, object]:
    """Number and submission time of the first evaluation at the target; empty for a run that missed it."""
    sign = 1 if metric in HIGHER_IS_BETTER else -1
    for i, row in enumerate(csv.DictReader(io.StringIO(text))):
        cell = row[f"validation/{metric}"]
        if cell and sign * float(cell) >= sign * target:
            return i, f"{float(row['score']):.2f}"
    return "", ""


def _git(repository: str, *arguments: str) -> str:
    return subprocess.run(["git", "-C", repository, *arguments], check=True, capture_output=True, text=True).stdout


def _contents(repository: str, paths: list[str]) -> Iterator[str]:
    """The files of the commit, through one git process."""
    command = ["git", "-C", repository, "cat-file", "--batch"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("git has no pipes")
        for path in paths:
            process.stdin.write(f"{COMMIT}:{path}\n".encode())
            process.stdin.flush()
            size = int(process.stdout.readline().split()[2])
            yield process.stdout.read(size + 1).decode()
        process.stdin.close()


if __name__ == "__main__":
    main(sys.argv[1])
