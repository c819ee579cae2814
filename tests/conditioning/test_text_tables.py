"""Conditioners that look up tokens and phonemes; their values are compared with stored ones elsewhere."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from stable_audio.conditioning.lut import LookUpConditioner
from stable_audio.conditioning.phoneme import PHONEMES, PhonemeConditioner
from tests.golden.kinds.cond import tiny_tokenizer

WORDS = ["<pad>", "</s>", "<unk>", "rock", "drum", "loop"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_tokenizer(WORDS).save_pretrained(tmp_path)
    return tmp_path


def lut(folder: Path, **options: object) -> LookUpConditioner:
    torch.manual_seed(0)
    return LookUpConditioner(output_dim=6, tokenizer_name=str(folder), max_length=5, **options)  # type: ignore[arg-type]


def phoneme(**options: object) -> PhonemeConditioner:
    torch.manual_seed(0)
    letters = {"c": "K", "a": "AA1", "t": "T"}
    given = {"max_length": 4, "g2p": lambda text: [letters.get(c, c) for c in text], **options}
    return PhonemeConditioner(output_dim=6, **given)  # type: ignore[arg-type]


def test_tokens_are_looked_up_and_padding_is_zero(folder: Path) -> None:
    made, mask = lut(folder)(["rock drum", "loop", ""], "cpu")
    assert made.shape == (3, 5, 6)
    assert mask.sum(dim=1).tolist() == [3, 2, 1]
    assert made[~mask].abs().sum() == 0
    torch.testing.assert_close(made[0, 0], lut(folder).token_embedder.weight[3])


def test_the_vocabulary_counts_special_tokens_and_may_be_given(folder: Path, tmp_path: Path) -> None:
    assert lut(folder, special_tokens=["<sep>"]).token_embedder.num_embeddings == len(WORDS) + 1
    unbuilt = LookUpConditioner(output_dim=6, tokenizer_name=str(tmp_path / "none"), vocab_size=9)
    assert unbuilt.token_embedder.num_embeddings == 9
    with pytest.raises(OSError, match="none"):
        unbuilt(["rock"], "cpu")
    with pytest.raises(ValueError, match="has 6 tokens, but vocab_size is 4"):
        lut(folder, vocab_size=4)(["rock"], "cpu")


def test_positions_tell_repeated_words_apart(folder: Path) -> None:
    plain, _ = lut(folder)(["rock rock"], "cpu")
    placed, _ = lut(folder, use_abs_pos_emb=True)(["rock rock"], "cpu")
    assert torch.equal(plain[0, 0], plain[0, 1])
    assert not torch.equal(placed[0, 0], placed[0, 1])


def test_the_phoneme_table_has_the_size_of_published_checkpoints() -> None:
    assert len(PHONEMES) == len(set(PHONEMES)) == 74
    assert PhonemeConditioner(output_dim=6).phoneme_embedder.weight.shape == (76, 6)


def test_phonemes_are_looked_up_and_padding_is_zero() -> None:
    conditioner = phoneme()
    made, mask = conditioner(["cat", "a!"], "cpu")
    assert made.shape == (2, 4, 6)
    assert mask.tolist() == [[True, True, True, False], [True, True, False, False]]
    assert made[~mask].abs().sum() == 0
    weight = conditioner.phoneme_embedder.weight
    torch.testing.assert_close(made[1, 0], weight[PHONEMES.index("AA1") + 2])
    torch.testing.assert_close(made[1, 1], weight[1])


def test_long_texts_are_cut_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    conditioner = phoneme()
    with caplog.at_level(logging.WARNING):
        made, mask = conditioner(["catcat", "tactac"], "cpu")
    assert made.shape == (2, 4, 6)
    assert mask.all()
    assert len(caplog.records) == 1
    assert "6 phonemes cut to 4" in caplog.text


def test_legacy_padding_takes_everything_for_valid() -> None:
    conditioner = phoneme(legacy_padding=True)
    made, mask = conditioner(["catcat", "a"], "cpu")
    assert made.shape == (2, 6, 6)
    assert mask.all()
    torch.testing.assert_close(made[1, 5], conditioner.phoneme_embedder.weight[0])


def test_without_g2p_en_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "g2p_en", None)
    with pytest.raises(ImportError, match=r"stable-audio\[phoneme\]"):
        PhonemeConditioner(output_dim=6)(["cat"], "cpu")
