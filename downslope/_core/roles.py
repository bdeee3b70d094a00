"""Roles: what a parameter is in its network, and how we know.

Matrix methods may take hidden matrices only; embeddings and heads that are taken too train worse without any error.
So a role comes from the model's modules when the model is given, else from the parameter's name, and a matrix
without a name has no role: methods that must know refuse it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn

__all__ = ["ParamInfo", "bare_model", "bare_name", "roles"]

ROLES = ("hidden", "embedding", "head", "norm", "bias", "vector", "unknown")

_EMBEDDING = re.compile(
    r"(^|[._])(embed\w*|emb|wte|wpe|tok_emb\w*|pos|pos_emb\w*|position\w*|cls_token|token_type\w*)([._]|$)"
)
_HEAD = re.compile(r"(^|[._])(lm_head|head|classifier|logits|output_layer|output_projection|unembed\w*|fc_out)([._]|$)")
_NORM = re.compile(r"(^|[._])\w*(norm|bn|ln)\w*([._]|$)")
_NORM_MODULES = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase, nn.RMSNorm)


_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")


def bare_model(model: nn.Module) -> nn.Module:
    """The model inside DataParallel and DistributedDataParallel, which put "module." before every name."""
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    return model


def bare_name(name: str) -> str:
    """A parameter's name as it is without torch.compile, activation checkpointing and FSDP around its modules."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


@dataclass(frozen=True)
class ParamInfo:
    """A parameter as the rules see it: name (None if unknown), shape, role, and where the role comes from."""

    name: str | None
    shape: tuple[int, ...]
    role: str
    why: str

    @property
    def label(self) -> str:
        """The name, or the shape where there is none."""
        return self.name or f"an unnamed parameter of shape {self.shape}"


def roles(model: nn.Module) -> dict[str, ParamInfo]:
    """The role of every parameter of a model by name, from the modules that hold them.

    The head is the module whose name says so, else the last `nn.Linear` (or the last convolution, where there is no
    linear layer) in the order of definition. A weight shared by an embedding and another layer is an embedding.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    layers = linear or [name for name, module in model.named_modules() if isinstance(module, nn.modules.conv._ConvNd)]
    named_heads = {name for name in layers if _HEAD.search(name)}
    last = layers[-1] if layers else None
    found: dict[str, ParamInfo] = {}
    seen: dict[Tensor, str] = {}
    for prefix, module in model.named_modules():
        for leaf, p in module.named_parameters(recurse=False):
            name = bare_name(f"{prefix}.{leaf}" if prefix else leaf)
            if p in seen:  # shared: the embedding wins
                if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                    found[seen[p]] = ParamInfo(
                        seen[p], tuple(p.shape), "embedding", f"shared with {type(module).__name__}"
                    )
                continue
            seen[p] = name
            role, why = _role_in_module(module, prefix, leaf, p, named_heads, last)
            found[name] = ParamInfo(name, tuple(p.shape), role, why)
    return found


def _role_in_module(
    module: nn.Module, prefix: str, leaf: str, p: Tensor, named_heads: set[str], last: str | None
) -> tuple[str, str]:
    kind = next(cls.__name__ for cls in type(module).__mro__ if not cls.__name__.startswith("FSDP"))
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "embedding", kind
    if isinstance(module, _NORM_MODULES):
        return "norm", kind
    if p.ndim < 2:
        return ("bias", kind) if "bias" in leaf else ("vector", f"{p.ndim} dimensions")
    if prefix in named_heads:
        return "head", "its name"
    if not named_heads and prefix == last:
        return "head", f"the last {kind}"
    if not _is_layer(module) and sum(n > 1 for n in p.shape) < 2:  # a class token, a layer scale
        return "vector", f"a single axis longer than 1, in {kind}"
    name = f"{prefix}.{leaf}"
    if _EMBEDDING.search(name):
        return "embedding", "its name"
    return "hidden", f"{kind} weight"


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Bilinear | nn.RNNBase | nn.RNNCellBase | nn.modules.conv._ConvNd)


def role_by_name(name: str | None, p: Tensor) -> ParamInfo:
    """The role as far as a name and a shape can tell it."""
    shape = tuple(p.shape)
    if p.ndim < 2:
        if name is not None and _NORM.search(name):
            return ParamInfo(name, shape, "norm", "its name")
        is_bias = name is not None and name.rsplit(".", 1)[-1].startswith("bias")
        return ParamInfo(name, shape, "bias" if is_bias else "vector", f"{p.ndim} dimensions")
    if name is None:
        return ParamInfo(name, shape, "unknown", "it has no name")
    if _EMBEDDING.search(name):
        return ParamInfo(name, shape, "embedding", "its name")
    if _HEAD.search(name):
        return ParamInfo(name, shape, "head", "its name")
    return ParamInfo(name, shape, "hidden", "its name and shape")
