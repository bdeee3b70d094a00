"""Arithmetic on hyperparameters: the same formula for a float, a 0-d tensor and a symbol.

A hyperparameter is a plain number in the reference executor and a kernel argument in the others, so the maths of a
method may not use `if`, `max` or `math.sqrt` on it. These functions serve all three.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["cos", "exp", "log", "maximum", "minimum", "sqrt", "where"]

Scalar = Any  # float | Tensor | Symbol


def _traceable(function: Callable[..., Scalar]) -> Callable[..., Scalar]:
    """Called with a symbol, put the operation into its graph."""

    @functools.wraps(function)
    def wrapper(*args: Scalar) -> Scalar:
        for each in args:
            if hasattr(type(each), "traced"):
                return each.traced(function.__name__, args)
        return function(*args)

    return wrapper


@_traceable
def where(condition: Scalar, yes: Scalar, no: Scalar) -> Scalar:
    """`yes` where the condition holds, else `no`."""
    if isinstance(condition, torch.Tensor):
        return torch.where(condition, yes, no)
    return yes if condition else no


@_traceable
def maximum(a: Scalar, b: Scalar) -> Scalar:
    """The larger of two; a tensor and a number may be mixed."""
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return torch.maximum(*_tensors(a, b))
    return max(a, b)


@_traceable
def minimum(a: Scalar, b: Scalar) -> Scalar:
    """The smaller of two; a tensor and a number may be mixed."""
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return torch.minimum(*_tensors(a, b))
    return min(a, b)


@_traceable
def sqrt(x: Scalar) -> Scalar:
    """Square root."""
    return x.sqrt() if isinstance(x, torch.Tensor) else math.sqrt(x)


@_traceable
def exp(x: Scalar) -> Scalar:
    """e to the x."""
    return x.exp() if isinstance(x, torch.Tensor) else math.exp(x)


@_traceable
def log(x: Scalar) -> Scalar:
    """Natural logarithm."""
    return x.log() if isinstance(x, torch.Tensor) else math.log(x)


@_traceable
def cos(x: Scalar) -> Scalar:
    """Cosine of an angle in radians."""
    return x.cos() if isinstance(x, torch.Tensor) else math.cos(x)


def _tensors(a: Scalar, b: Scalar) -> tuple[torch.Tensor, torch.Tensor]:
    like = a if isinstance(a, torch.Tensor) else b
    return torch.as_tensor(a, dtype=like.dtype, device=like.device), torch.as_tensor(
        b, dtype=like.dtype, device=like.device
    )
