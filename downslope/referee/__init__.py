"""The referee: races training methods on a workload under one protocol and says what the evidence supports.

`race(workload, methods=[...])` is the whole of it; `Workload` describes what is trained, `Recipe` a method under a name
of its own; `from_module`, `from_trainer` and `from_lightning` make a workload of a module, of a Hugging Face `Trainer`
and of a Lightning module. `profile` scores times over several workloads, `trace` draws paths.

Names are loaded at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from downslope._lazy import lazy

if TYPE_CHECKING:
    from downslope.referee.adapters.huggingface import from_trainer
    from downslope.referee.adapters.lightning import from_lightning
    from downslope.referee.adapters.module import from_module
    from downslope.referee.errors import LeftToOthers, RaceError
    from downslope.referee.landscapes import Landscape
    from downslope.referee.profiles import Profile, profile
    from downslope.referee.protocol import race
    from downslope.referee.recipe import Recipe
    from downslope.referee.results import Result
    from downslope.referee.tracing import trace
    from downslope.referee.workload import Workload, load_workload

__all__ = [
    "Landscape",
    "LeftToOthers",
    "Profile",
    "RaceError",
    "Recipe",
    "Result",
    "Workload",
    "from_lightning",
    "from_module",
    "from_trainer",
    "load_workload",
    "profile",
    "race",
    "trace",
]

_HOMES = {
    "Landscape": "landscapes",
    "LeftToOthers": "errors",
    "Profile": "profiles",
    "RaceError": "errors",
    "Recipe": "recipe",
    "Result": "results",
    "Workload": "workload",
    "from_lightning": "adapters.lightning",
    "from_module": "adapters.module",
    "from_trainer": "adapters.huggingface",
    "load_workload": "workload",
    "profile": "profiles",
    "race": "protocol",
    "trace": "tracing",
}

__getattr__ = lazy(__name__, _HOMES)
