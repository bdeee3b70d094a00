from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from downslope.referee import Workload, load_workload

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background jobs ignore Ctrl-C, and so would races
    signal.signal(signal.SIGINT, signal.default_int_handler)

TOY = Path(__file__).parent / "toy_workload.py"


@pytest.fixture
def toy_file() -> Path:
    return TOY


@pytest.fixture(scope="session")
def toy() -> Workload:
    return load_workload(TOY)


@pytest.fixture
def small() -> dict[str, Any]:
    """Arguments of a race that takes a second or two."""
    return {"methods": ["adamw", "sgd"], "trials": 2, "seeds": 3, "quiet": True}
