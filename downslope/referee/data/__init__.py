"""Data for workloads: three sets in the package, others fetched once, and the loaders that cut them into batches.

What belongs to whom is said by each loader and, for what the package carries, by the LICENSE files beside this one.
All of it is held in memory as tensors; nothing here starts a thread or a process. Names are loaded at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from downslope._lazy import lazy

if TYPE_CHECKING:
    from downslope.referee.data.batches import Batches, TextBatches
    from downslope.referee.data.cache import DataError, cache_folder
    from downslope.referee.data.census import adult
    from downslope.referee.data.delays import flights
    from downslope.referee.data.links import umls
    from downslope.referee.data.packaged import debian, fashion_mnist, state_of_the_union
    from downslope.referee.data.pretrained import smollm
    from downslope.referee.data.rtables import elecdemand, insteval

__all__ = [
    "Batches",
    "DataError",
    "TextBatches",
    "adult",
    "cache_folder",
    "debian",
    "elecdemand",
    "fashion_mnist",
    "flights",
    "insteval",
    "smollm",
    "state_of_the_union",
    "umls",
]

_HOMES = {
    "Batches": "batches",
    "DataError": "cache",
    "TextBatches": "batches",
    "adult": "census",
    "cache_folder": "cache",
    "debian": "packaged",
    "elecdemand": "rtables",
    "fashion_mnist": "packaged",
    "flights": "delays",
    "insteval": "rtables",
    "smollm": "pretrained",
    "state_of_the_union": "packaged",
    "umls": "links",
}

__getattr__ = lazy(__name__, _HOMES)
