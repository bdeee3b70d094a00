from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from downslope.referee import machine


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_what_other_programs_do_is_told_from_what_this_one_does():
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        bystanders, end = machine.Bystanders(), time.process_time() + 0.5
        while time.process_time() < end:
            pass
        both = bystanders.cores()
    finally:
        busy.kill()
        busy.wait()
    assert both > 0.2  # the other program's share of two cores or more
    assert both <= (os.cpu_count() or 1)


def test_own_work_is_nobody_elses(monkeypatch: pytest.MonkeyPatch):
    readings = iter([(0.0, 100.0, 10.0), (4.0, 107.0, 13.0)])
    monkeypatch.setattr(machine.Bystanders, "_read", staticmethod(lambda: next(readings)))
    assert machine.Bystanders().cores() == 1.0  # of seven busy seconds three were ours, in four


def test_git_state_is_the_commit_and_whether_tracked_files_changed(tmp_path: Path):
    assert machine.git_state(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert machine.git_state(tmp_path) is None  # no commit yet
    (tmp_path / "a.txt").write_text("one")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "-q", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")[:12]
    (tmp_path / "new.txt").write_text("untracked files, such as races/, do not count")
    assert machine.git_state(tmp_path) == f"{commit}, clean"
    (tmp_path / "a.txt").write_text("two")
    assert machine.git_state(tmp_path) == f"{commit}, with uncommitted changes"
    assert machine.git_state(tmp_path / "nowhere") is None


def test_no_fact_is_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    facts = machine.machine_facts()
    assert facts["git_here"] is None
    assert not [v for v in facts.values() if isinstance(v, str) and (str(tmp_path) in v or str(Path.home()) in v)]
