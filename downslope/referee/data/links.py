"""UMLS: a small knowledge graph of medical concepts, such as "alga is an entity".

Fetched from the wheel `pykeen` (MIT), else from its repository. The graph is the semantic network of the Unified
Medical Language System of the US National Library of Medicine, a benchmark since Kok and Domingos, 2007.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from downslope.referee.data.cache import obtain
from downslope.referee.data.packages import UMLS

__all__ = ["Graph", "umls"]


class Graph(NamedTuple):
    """Questions "which concept stands in this relation to that one?": queries (N, 2) and answers (N,), int64.

    A query is (concept, relation). Each link asks twice: for its tail, and for its head by the relation's inverse,
    which has a number of its own. `known` (N, concepts), bool, marks the other right answers of each validation
    query in the whole graph, which do not count against the rank.
    """

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor, Tensor]
    concepts: int
    relations: int


def umls() -> Graph:
    """5,216 training and 652 validation links of 135 concepts by 46 relations: the usual split, its test unused."""
    parts = [[line.split("\t") for line in obtain(UMLS, file).decode("ascii").splitlines()] for file in UMLS.files]
    everything = [link for part in parts for link in part]
    concept = {name: k for k, name in enumerate(sorted({end for head, _, tail in everything for end in (head, tail)}))}
    relation = {name: k for k, name in enumerate(sorted({name for _, name, _ in everything}))}

    def questions(links: list[list[str]]) -> NDArray[np.int64]:
        forward = [(concept[h], relation[r], concept[t]) for h, r, t in links]
        return np.array(forward + [(t, r + len(relation), h) for h, r, t in forward], np.int64)

    right = np.zeros((len(concept), 2 * len(relation), len(concept)), bool)
    right[tuple(questions(everything).T)] = True
    train, valid = questions(parts[0]), questions(parts[1])
    known = right[valid[:, 0], valid[:, 1]]
    known[np.arange(len(valid)), valid[:, 2]] = False
    return Graph(
        (torch.from_numpy(train[:, :2].copy()), torch.from_numpy(train[:, 2].copy())),
        (torch.from_numpy(valid[:, :2].copy()), torch.from_numpy(known), torch.from_numpy(valid[:, 2].copy())),
        len(concept),
        2 * len(relation),
    )
