"""The Llama block, the reader of GGUF files, and what is kept of a model cut in two: on a tiny model, no network."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from downslope._core.roles import roles
from downslope.referee.data import DataError, cache, smollm
from downslope.referee.data.llama import Block, rotate
from downslope.referee.data.pretrained import Cut, Model, cut, is_prepared
from downslope.referee.workload import load_workload
from downslope.referee.workloads.sotu_smollm import Upper

gguf = pytest.importorskip("gguf", reason="the extra smollm is not installed")
pytest.importorskip("tokenizers", reason="the extra smollm is not installed")

HOME = sys.modules[smollm.__module__]
WIDTH, HIDDEN, HEADS, GROUPS, DEPTH = 32, 64, 4, 2, 4
MERGES = ["t h", "th e", "Ġ the", "1 2"]
TEXTS = [f"{k} the theme of the {k * 7} thorns, then; " * 9 for k in range(30)]


def alphabet() -> list[str]:
    """The 256 signs by which byte-level BPE writes bytes: printable ones as they are, the others moved up."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(moved)) for byte in range(256)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of four blocks with random weights, matrices of 4 bits and embeddings of 8."""
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    tokens = [*alphabet(), *(merge.replace(" ", "") for merge in MERGES)]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(DEPTH)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(50.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    random = np.random.default_rng(0)
    kinds = gguf.GGMLQuantizationType

    def add(name: str, *shape: int, kind: int = kinds.Q4_1) -> None:
        values = random.normal(size=shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, 1 + 0.3 * values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values * 0.4, kind), raw_dtype=kind)

    add("token_embd.weight", len(tokens), WIDTH, kind=kinds.Q8_0)
    for k in range(DEPTH):
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{k}.{name}.weight", WIDTH)
        shared = WIDTH // HEADS * GROUPS
        for name, shape in {
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (shared, WIDTH),
            "attn_v": (shared, WIDTH),
            "attn_output": (WIDTH, WIDTH),
            "ffn_gate": (HIDDEN, WIDTH),
            "ffn_up": (HIDDEN, WIDTH),
            "ffn_down": (WIDTH, HIDDEN),
        }.items():
            add(f"blk.{k}.{name}.weight", *shape)
    add("output_norm.weight", WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits_of_transformers(file: Path, tokens: Tensor) -> Tensor:
    """What the implementation of `transformers` makes of the same file, by its own reader."""
    transformers = pytest.importorskip("transformers", reason="the extra transformers is not installed")
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    with torch.no_grad():
        logits: Tensor = model.eval()(tokens).logits
    return logits


def test_blocks_give_what_transformers_gives_of_the_same_file(file: Path) -> None:
    model = Model(file)
    tokens = torch.from_numpy(np.stack([model.tokens(text)[:40] for text in TEXTS[:3]]))
    x = model.tensor("token_embd.weight")[tokens]
    block = Block(model.shape)
    with torch.no_grad():
        for k in range(model.depth):
            block.load_state_dict(model.block(k))
            x = block(x)
    norm = torch.nn.functional.rms_norm(x, (WIDTH,), model.tensor("output_norm.weight"), model.shape.eps)
    ours, theirs = norm @ model.tensor("token_embd.weight").T, logits_of_transformers(file, tokens)
    assert theirs.std() > 0.5
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_a_cut_model_gives_what_the_whole_one_gives_of_the_tokens_that_occur(file: Path) -> None:
    model = Model(file)
    made = cut(model, TEXTS[:6], TEXTS[6:8], length=24)
    words = made.head.shape[0]
    assert words < len(model.tokenizer.get_vocab())
    assert [t.shape for t in made.train] == [(18, 24, WIDTH), (18, 24)]
    assert [t.shape for t in made.validation] == [(4, 24, WIDTH), (4, 24)]
    tokens = np.concatenate([HOME._windows(model.tokens(text), 2, 24) for text in TEXTS[6:8]])
    assert max(int(part[1].max()) for part in (made.train, made.validation)) < words
    table = model.tensor("token_embd.weight")
    torch.testing.assert_close(made.head[made.validation[1]], table[torch.from_numpy(tokens[:, 1:])], atol=0, rtol=0)
    theirs = logits_of_transformers(file, torch.from_numpy(tokens[:, :-1]))
    kept = [int((table == row).all(1).nonzero()) for row in made.head]
    with torch.no_grad():
        ours = Upper(made, free_norms=True)(made.validation[0])
    torch.testing.assert_close(ours, theirs[..., kept], atol=0.02, rtol=0.01)


def test_a_rotated_point_keeps_its_length_and_its_angle_grows_with_time() -> None:
    x = torch.ones(1, 3, 1, 4)
    turned = torch.view_as_complex(rotate(x, 100.0).unflatten(-1, (2, 2)))[0, :, 0]
    expected = (1 + 1j) * np.exp(1j * np.arange(3)[:, None] * np.array([1.0, 0.1]))
    np.testing.assert_allclose(turned.numpy(), expected, rtol=1e-6)


def test_digits_stand_alone_and_merges_join_within_words(file: Path) -> None:
    model = Model(file)
    read = [model.tokenizer.id_to_token(int(k)) for k in model.tokens("the the 12th\n")]
    assert read == ["the", "Ġthe", "Ġ", "1", "2", "th", "Ċ"], "the merge of 1 and 2 is never used"


def test_windows_are_even_and_leave_out_the_ends() -> None:
    windows = HOME._windows(np.arange(100), 3, 9)
    assert windows[:, 0].tolist() == [22, 45, 67]
    assert windows.shape == (3, 10)
    assert (np.diff(windows) == 1).all()


class TestKept:
    """What is kept of the cut in the cache."""

    @pytest.fixture(autouse=True)
    def tiny(self, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The tiny model and texts in place of the real ones; the cache folder."""
        monkeypatch.setenv("DOWNSLOPE_CACHE", str(tmp_path))
        monkeypatch.setattr(HOME, "messages", lambda: TEXTS)
        monkeypatch.setattr(
            HOME, "obtain", lambda package, wanted: cache.keep(tmp_path / wanted.name, file.read_bytes())
        )
        return tmp_path

    def test_the_second_load_needs_neither_model_nor_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert not is_prepared()
        first = smollm()
        assert is_prepared()
        assert len(first.train[0]) == 3 * 28, "two of thirty texts are held out"
        assert len(first.validation[0]) == 2 * 2
        monkeypatch.setitem(sys.modules, "gguf", None)
        monkeypatch.setattr(HOME, "obtain", None)
        assert same(first, smollm())

    def test_another_text_another_model_or_other_code_is_never_read(
        self, tiny: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        smollm()
        (kept,) = tiny.glob("*.safetensors")
        for name, value in (
            ("messages", lambda: [*TEXTS[:-1], "Another end. " * 30]),
            ("SMOLLM_MODEL", dataclasses.replace(HOME.SMOLLM_MODEL, sha256="0" * 64)),
            ("__file__", str(tiny / "code.py")),
        ):
            (tiny / "code.py").write_text("other code", encoding="utf-8")
            with monkeypatch.context() as patch:
                patch.setattr(HOME, name, value)
                assert not is_prepared(), name
        assert is_prepared()
        assert list(tiny.glob("*.safetensors")) == [kept]

    def test_a_new_cut_takes_the_place_of_older_ones(self, tiny: Path) -> None:
        (tiny / "0123456789ab-other.safetensors").touch()
        (tiny / "busy-sotu-smollm.safetensors").mkdir()  # cannot be removed
        (tiny / "0123456789ab-sotu-smollm.safetensors").touch()
        before = set(tiny.iterdir())
        smollm()
        assert before - set(tiny.iterdir()) == {tiny / "0123456789ab-sotu-smollm.safetensors"}
        assert is_prepared()

    def test_a_damaged_file_is_made_anew(self, tiny: Path) -> None:
        first = smollm()
        (kept,) = tiny.glob("*.safetensors")
        whole = kept.read_bytes()
        kept.write_bytes(whole[: len(whole) // 2])
        assert same(first, smollm())
        assert kept.read_bytes() == whole

    def test_without_the_extra_one_sentence_names_it_before_anything_is_fetched(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "tokenizers", None)
        monkeypatch.setattr(HOME, "obtain", None)
        with pytest.raises(
            DataError, match=r"needs gguf and tokenizers .*: install them with `pip install 'down"
        ) as no:
            smollm()
        assert str(no.value).endswith("'downslope[smollm]'`.")
        assert "\n" not in str(no.value)

    def test_a_trial_begins_at_the_kept_weights_and_leaves_them_as_they_are(self) -> None:
        workload = load_workload("sotu-smollm")
        before = smollm()
        model = workload.model()
        first = workload.metric(model, workload.validation)
        opt = torch.optim.SGD(model.parameters(), lr=0.05)
        for batch in workload.train:
            opt.zero_grad()
            workload.loss(model, batch).backward()
            opt.step()
        assert workload.metric(model, workload.validation) != first
        assert workload.metric(workload.model(), workload.validation) == first
        assert same(before, smollm())

    def test_all_matrices_of_the_block_are_hidden_and_the_head_is_no_parameter(self) -> None:
        def parts(variant: str) -> dict[str, str]:
            return {name: info.role for name, info in roles(load_workload(variant).model()).items()}

        base = parts("sotu-smollm")
        assert len(base) == 9 + 1
        assert all(role == ("norm" if "norm" in name else "hidden") for name, role in base.items())
        assert parts("sotu-smollm@fixed-norms") == {name: role for name, role in base.items() if role == "hidden"}


def same(one: Cut, other: Cut) -> bool:
    """Whether two cuts agree in every bit."""
    return (
        one.shape == other.shape
        and all(map(torch.equal, [*one.train, *one.validation], [*other.train, *other.validation]))
        and torch.equal(one.norm, other.norm)
        and torch.equal(one.head, other.head)
        and one.block.keys() == other.block.keys()
        and all(torch.equal(one.block[name], other.block[name]) for name in one.block)
    )
