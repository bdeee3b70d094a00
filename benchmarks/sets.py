"""The parameter sets that every contestant steps: names, shapes, and the tensors made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["SETS", "ParameterSet", "Tensors", "tensors"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ParameterSet:
    """Named shapes.

    Args:
        key: how the command line names it.
        title: how the tables name it.
        shapes: shape by parameter name; names decide roles, as in a real model.
    """

    key: str
    title: str
    shapes: dict[str, Shape]

    @property
    def numel(self) -> int:
        """Numbers in all parameters."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def scaled(self, factor: float) -> ParameterSet:
        """The same tensors with about `factor` times as many numbers, for a trial run."""
        if factor == 1.0 or self.numel < 2**16:
            return self

        def shrink(shape: Shape) -> Shape:
            return tuple(max(1, round(side * factor ** (1 / len(shape)))) for side in shape)

        title = f"{self.title}, scaled by {factor:g}"
        return ParameterSet(self.key, title, {name: shrink(shape) for name, shape in self.shapes.items()})


def _gpt2_small() -> dict[str, Shape]:
    width, depth = 768, 12
    block: dict[str, Shape] = {
        "ln_1.weight": (width,),
        "ln_1.bias": (width,),
        "attn.c_attn.weight": (width, 3 * width),
        "attn.c_attn.bias": (3 * width,),
        "attn.c_proj.weight": (width, width),
        "attn.c_proj.bias": (width,),
        "ln_2.weight": (width,),
        "ln_2.bias": (width,),
        "mlp.c_fc.weight": (width, 4 * width),
        "mlp.c_fc.bias": (4 * width,),
        "mlp.c_proj.weight": (4 * width, width),
        "mlp.c_proj.bias": (width,),
    }
    shapes: dict[str, Shape] = {"wte.weight": (50257, width), "wpe.weight": (1024, width)}
    for i in range(depth):
        shapes |= {f"h.{i}.{name}": shape for name, shape in block.items()}
    return shapes | {"ln_f.weight": (width,), "ln_f.bias": (width,)}


def _thousand() -> dict[str, Shape]:
    sizes: tuple[Shape, ...] = ((64, 64), (256,), (128, 32), (64,), (1024,))
    return {f"layers.{i}.weight": sizes[i % len(sizes)] for i in range(1000)}


SETS = {
    each.key: each
    for each in (
        ParameterSet("gpt2", "124M in 148 tensors (GPT-2 small)", _gpt2_small()),
        ParameterSet("small", "1,000 small tensors", _thousand()),
        ParameterSet("one", "one tensor of 32M", {"layer.weight": (8192, 4096)}),
        ParameterSet("tiny", "148 tensors of 16", {f"layers.{i}.weight": (16,) for i in range(148)}),
    )
}


@dataclass(frozen=True)
class Tensors:
    """Parameters and gradients that all contestants of a set share; each has its own state.

    A step reads a gradient and must leave it alone. A rival that does not is noticed by torch's version counter, and
    `restore` gives the next one the gradient as it was.
    """

    parameters: dict[str, nn.Parameter]
    gradients: tuple[Tensor, ...]
    versions: list[int]

    @property
    def numel(self) -> int:
        """Numbers in all parameters."""
        return sum(p.numel() for p in self.parameters.values())

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all parameters."""
        return sum(p.numel() * p.element_size() for p in self.parameters.values())

    def restore(self) -> bool:
        """Put the gradients back in their places; whether somebody had written to one."""
        written = False
        for i, (p, g) in enumerate(zip(self.parameters.values(), self.gradients, strict=True)):
            p.grad = g
            if g._version != self.versions[i]:
                _fill(g, 1e-3, i)
                self.versions[i] = g._version
                written = True
        return written


def tensors(shape_set: ParameterSet) -> Tensors:
    """Weights with a spread of 0.02 and gradients with one of 1e-3, float32, from a fixed seed."""
    parameters, gradients = {}, []
    for i, (name, shape) in enumerate(shape_set.shapes.items()):
        p = nn.Parameter(torch.empty(shape))
        with torch.no_grad():
            _fill(p, 0.02, -1 - i)
        p.grad = _fill(torch.empty(shape), 1e-3, i)
        parameters[name] = p
        gradients.append(p.grad)
    return Tensors(parameters, tuple(gradients), [g._version for g in gradients])


def _fill(x: Tensor, spread: float, seed: int) -> Tensor:
    """Normal numbers; past 2^20 they repeat, which no step's time depends on and which is quick to make."""
    rng = torch.Generator().manual_seed(seed % 2**31)
    flat, size = x.view(-1), min(x.numel(), 2**20)
    tile = torch.randn(size, generator=rng) * spread
    for start in range(0, flat.numel(), size):
        part = flat[start : start + size]
        part.copy_(tile[: part.numel()])
    return x
