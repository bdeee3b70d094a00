"""The projection that AdamP and SGDP share: an update without its part along a scale-invariant weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

__all__ = ["remove_radial"]

Scalar = Any  # float | Tensor


def remove_radial(u: Tensor, g: Tensor, p: Tensor, delta: Scalar, eps: Scalar) -> tuple[Tensor, Tensor]:
    """The update without its part along the weight, where the gradient shows the weight to be scale-invariant.

    A weight whose scale does not matter is orthogonal to its gradient. The test is made for every output channel (row)
    and, where one of them fails, for the whole weight; vectors and scalars are never taken for scale-invariant.

    Args:
        u: the update.
        g: the gradient at p.
        p: the weight.
        delta: the weight counts as scale-invariant if all |cos(g, p)| < delta/sqrt(d), d numbers per row.
        eps: added to the norm of a weight, and the least norm of either side in a cosine.

    Returns:
        The update, and a 0-d bool tensor that says whether the weight was taken for scale-invariant.
    """
    if p.ndim < 2:
        return u, torch.zeros((), dtype=torch.bool, device=p.device)
    by_row = _orthogonal(g, p, p.shape[0], delta, eps)
    as_whole = _orthogonal(g, p, 1, delta, eps)
    invariant = by_row | as_whole
    tangential = torch.where(by_row, _tangential(u, p, p.shape[0], eps), _tangential(u, p, 1, eps))
    return torch.where(invariant, tangential, u), invariant


def _orthogonal(g: Tensor, p: Tensor, rows: int, delta: Scalar, eps: Scalar) -> Tensor:
    g, p = g.reshape(rows, -1), p.reshape(rows, -1)
    cosines: Tensor = cosine_similarity(g, p, dim=1, eps=eps)
    return torch.lt(cosines.abs().max(), delta / p.shape[1] ** 0.5)


def _tangential(u: Tensor, p: Tensor, rows: int, eps: Scalar) -> Tensor:
    w, v = p.reshape(rows, -1), u.reshape(rows, -1)
    w = w / (w.norm(dim=1, keepdim=True) + eps)
    radial: Tensor = w * (w * v).sum(dim=1, keepdim=True)
    return (v - radial).reshape_as(u)
