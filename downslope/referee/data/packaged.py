"""The three data sets of the package, for races that need no download. `pack.py` says how they were made."""

from __future__ import annotations

import functools
import lzma
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Images", "Packages", "Text", "debian", "fashion_mnist", "messages", "state_of_the_union"]

_FILES = Path(__file__).parent / "files"
TRAIN, VALIDATION, PIXELS = 12_000, 2_000, 28 * 28


class Images(NamedTuple):
    """Pictures (N, 28, 28), float32, standardised by the training pictures; classes (N,), int64, 0 to 9."""

    train_images: Tensor
    train_classes: Tensor
    validation_images: Tensor
    validation_classes: Tensor


class Text(NamedTuple):
    """Character numbers, uint8, one dimension, and the characters that they number."""

    train: Tensor
    validation: Tensor
    alphabet: str


class Packages(NamedTuple):
    """A graph of packages: sections (N,), int64, 0 to 9; edges (E, 2), int64, each once; and words that describe them.

    The words of all packages stand one after the other in `words`, int64; those of package k begin at `starts[k]`.
    `train` and `validation` are numbers of packages, `vocabulary` the number of words.
    """

    sections: Tensor
    edges: Tensor
    words: Tensor
    starts: Tensor
    train: Tensor
    validation: Tensor
    vocabulary: int


def fashion_mnist() -> Images:
    """12,000 training and 2,000 validation pictures of clothes in ten classes, from Fashion-MNIST (Zalando, MIT).

    The first 1,200 of each class of the training file and the first 200 of each class of the test file, in the
    files' order. Pixels have mean 0 and standard deviation 1 over the training part.
    """
    return _fashion_mnist()


@functools.lru_cache(maxsize=1)
def _fashion_mnist() -> Images:
    content = np.frombuffer(lzma.decompress((_FILES / "fashion_mnist.xz").read_bytes()), np.uint8)
    total = TRAIN + VALIDATION
    pixels = content[: total * PIXELS].reshape(total, 28, 28).astype(np.float32)
    classes = torch.from_numpy(content[total * PIXELS :].astype(np.int64))
    mean, deviation = pixels[:TRAIN].mean(dtype=np.float64), pixels[:TRAIN].std(dtype=np.float64)
    images = torch.from_numpy(((pixels - mean) / deviation).astype(np.float32))
    return Images(images[:TRAIN], classes[:TRAIN], images[TRAIN:], classes[TRAIN:])


def state_of_the_union() -> Text:
    """The annual messages of the presidents of the United States, 1790 to 1928, as characters (public domain).

    140 messages, 7.9 million characters of 77 kinds. Every 14th message, from the eighth on, is for validation: ten
    whole messages, spread over the years, 0.58 million characters.
    """
    return _state_of_the_union()


@functools.lru_cache(maxsize=1)
def _state_of_the_union() -> Text:
    texts = [text.encode("ascii") for text in messages()]
    alphabet = bytes(sorted(set(b"".join(texts))))
    number = np.zeros(256, np.uint8)
    number[list(alphabet)] = np.arange(len(alphabet), dtype=np.uint8)

    def numbered(parts: list[bytes]) -> Tensor:
        return torch.from_numpy(number[np.frombuffer(b"\n".join(parts), np.uint8)])

    train = [text for k, text in enumerate(texts) if k % 14 != 7]
    return Text(numbered(train), numbered(texts[7::14]), alphabet.decode("ascii"))


def messages() -> list[str]:
    """The 140 messages of `state_of_the_union` as plain ASCII, in the order of time."""
    return lzma.decompress((_FILES / "state_of_the_union.txt.xz").read_bytes()).decode("ascii").split("\f")


def debian() -> Packages:
    """8,252 packages of Debian 12 in ten sections, joined by 33,655 dependencies (facts; no name and no text).

    Two packages are joined where one relates to the other or both relate to one that few do; the words are those of
    the one-line description that at least ten packages have, as numbers. A quarter, drawn at random, is for training,
    another quarter for validation.
    """
    return _debian()


@functools.lru_cache(maxsize=1)
def _debian() -> Packages:
    content = lzma.decompress((_FILES / "debian_packages.xz").read_bytes())
    nodes, edges, words = np.frombuffer(content, "<u4", 3).tolist()
    parts, at = [], 12
    for size, count in ((1, nodes), (1, nodes), (2, 2 * edges), (2, words)):
        parts.append(torch.from_numpy(np.frombuffer(content, f"<u{size}", count, at).astype(np.int64)))
        at += count * size
    sections, lengths, ends, word = parts
    order = torch.from_numpy(np.random.default_rng(0).permutation(nodes))
    quarter = nodes // 4
    starts = lengths.cumsum(0) - lengths
    known = int(word.max()) + 1
    return Packages(sections, ends.reshape(-1, 2), word, starts, order[:quarter], order[quarter : 2 * quarter], known)
