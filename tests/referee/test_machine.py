from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from downslope.referee import machine


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


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
