"""Words as hashed rows: the same everywhere, in order, zero where there is none, and trained alone."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from stable_audio.checkpoints import load_model
from stable_audio.conditioning.phoneme import PhonemeConditioner
from stable_audio.conditioning.tokenizers import ByteTokenizer
from stable_audio.conditioning.words import WordsConditioner, WordTokenizer
from stable_audio.data.synthetic.captions import _ONE_NOTE, _TWO_NOTES, NOUNS
from stable_audio.data.synthetic.notes import LOWEST_PITCH, NUM_PITCHES, note_name
from stable_audio.data.synthetic.words import LENGTH_WORDS, LOUDNESS_WORDS, VIBRATO
from stable_audio.inference import generate
from stable_audio.model import DiffusionModel
from tests.training.building import tiny_config, tiny_run

ROWS = {
    "c#4": [1925, 1181],
    "hi-hat": [1746, 993],
    "a": [1765, 499],
    ",": [890, 1127],
    "été": [78, 1129],
}


def tokenizer(vocab_size: int = 2048, hashes: int = 2, max_length: int = 16) -> WordTokenizer:
    return WordTokenizer(vocab_size=vocab_size, hashes=hashes, max_length=max_length)


def words(**options: Any) -> WordsConditioner:
    torch.manual_seed(0)
    return WordsConditioner(**{"output_dim": 6, "max_length": 8, **options})


def full_width(text: str) -> str:
    """ASCII in the forms of East Asian type."""
    return "".join(chr(ord(c) + 0xFEE0) for c in text)


def test_words_of_a_prompt() -> None:
    assert tokenizer().words("A Hi-Hat, then C#4 on drum'n'bass: Bb_2!") == [
        *("a", "hi-hat", ",", "then", "c#4", "on", "drum'n'bass", ":", "bb_2", "!")
    ]
    assert tokenizer().words(f"{full_width('Hi-hat')} {full_width('C#4')} STRASSE") == tokenizer().words(
        "hi-hat c#4 straße"
    )
    assert tokenizer().words(" \n\t") == []


@example("\ud800 half a pair", 5, 2, 40)
@given(st.text(st.characters(), max_size=60), st.integers(1, 5), st.integers(1, 3), st.integers(1, 40))
def test_any_text_gives_rows_of_the_table(text: str, max_length: int, hashes: int, vocab_size: int) -> None:
    read = tokenizer(vocab_size, hashes, max_length)
    rows, mask = read([text, ""])
    assert rows.shape == (2, max_length, hashes)
    assert rows.dtype == torch.long
    assert rows.min() >= 0
    assert rows.max() < vocab_size
    count = len(read.words(text))
    assert mask.tolist() == [[n < count for n in range(max_length)], [False] * max_length]
    assert not rows[~mask].any()
    again, _ = tokenizer(vocab_size, hashes, max_length)([text, text])
    assert torch.equal(again[0], rows[0])
    assert torch.equal(again[1], rows[0])


def test_rows_are_the_same_on_every_machine() -> None:
    assert {word: tokenizer().rows(word) for word in ROWS} == ROWS


def test_more_hashes_keep_the_rows_of_fewer() -> None:
    assert tokenizer(hashes=3).rows("bell")[:2] == tokenizer().rows("bell")


def test_words_that_share_a_row_seldom_share_the_other() -> None:
    """A CRC or a sum of letters would give words of one length either both rows or none."""
    rows = [tokenizer(512).rows(f"{a}{b}{c}") for a in "bdfgklmn" for b in "aeiou" for c in "bdfgklmnprst"]
    first = _pairs(Counter(row[0] for row in rows))
    both = _pairs(Counter(tuple(sorted(row)) for row in rows))
    assert first > 150  # 480 * 479 / 2 / 512 = 225 on average
    assert both < 10  # less than one on average


def _pairs(counts: Counter[Any]) -> int:
    return sum(n * (n - 1) // 2 for n in counts.values())


def test_words_of_the_synthetic_collection_are_all_different() -> None:
    texts = [text for nouns in NOUNS.values() for text in nouns]
    texts += [note_name(midi) for midi in range(LOWEST_PITCH, LOWEST_PITCH + NUM_PITCHES)]
    texts += [wording.format(noun="", notes="", vibrato="") for wording in (*_ONE_NOTE, *_TWO_NOTES)]
    texts += [word for group in (*LOUDNESS_WORDS.values(), *LENGTH_WORDS.values()) for word in group]
    read = tokenizer(max_length=99)
    known = {word for text in (*texts, "a an then", VIBRATO) for word in read.words(text)}
    assert known >= {"c3", "b5", "a#4", "hi-hat", "sawtooth", "vibrato", ":", ",", "loud"}
    assert len({tuple(sorted(read.rows(word))) for word in known}) == len(known)


def test_tokens_are_sums_of_rows_and_the_position() -> None:
    for hashes, project_out in ((1, False), (3, True)):
        conditioner = words(hashes=hashes, project_out=project_out)
        tokens, mask = conditioner(["Loud bell, C4", 1999, ""], "cpu")
        assert mask.sum(dim=1).tolist() == [4, 1, 0]
        for item, prompt in enumerate((["loud", "bell", ",", "c4"], ["1999"], [])):
            for place in range(8):
                expected = torch.zeros(6)
                if place < len(prompt):
                    expected = conditioner.position_embedder.weight[place]
                    for row in conditioner.tokenizer.rows(prompt[place]):
                        expected = expected + conditioner.word_embedder.weight[row]
                    expected = conditioner.proj_out(expected)
                torch.testing.assert_close(tokens[item, place], expected)
        assert not tokens[~mask].any()


def test_order_matters_and_case_does_not() -> None:
    tokens, _ = words()(["C4 then G4", "G4 then C4", f"{full_width('c4')} THEN g4"], "cpu")
    # Attention sees a set of tokens: what does not depend on their order must differ as well.
    assert not torch.allclose(tokens[0].square().sum(dim=0), tokens[1].square().sum(dim=0))
    assert torch.equal(tokens[0], tokens[2])


@pytest.mark.parametrize("hashes", [1, 2, 4])
def test_words_and_positions_start_at_their_deviations(hashes: int) -> None:
    conditioner = words(output_dim=64, hashes=hashes, max_length=64)
    summed = conditioner.word_embedder.weight.detach().view(-1, hashes, 64).sum(dim=1)
    assert float(summed.std()) == pytest.approx(0.5, rel=0.02)
    assert float(conditioner.position_embedder.weight.detach().std()) == pytest.approx(0.2, rel=0.05)


def test_long_prompts_are_cut_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    conditioner = words(max_length=2)
    with caplog.at_level(logging.WARNING):
        tokens, mask = conditioner(["a deep bell", "one two three four"], "cpu")
    assert mask.all()
    assert [r.message for r in caplog.records] == [
        "prompt of 3 words cut to 2 (raise 'max_length'): a deep bell"
    ]
    assert torch.equal(tokens, conditioner(["a deep", "one two"], "cpu")[0])


@pytest.mark.parametrize(
    "cut",
    [
        lambda text: tokenizer(max_length=1)([text]),
        lambda text: ByteTokenizer(vocab_size=258, max_length=3)([text]),
        lambda text: PhonemeConditioner(output_dim=4, max_length=1, g2p=list)([text], "cpu"),
    ],
)
def test_what_is_logged_of_a_prompt_is_unicode(
    cut: Callable[[str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        cut("half a \ud800 pair")
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith("half a \\ud800 pair")


@pytest.mark.parametrize("key", ["vocab_size", "hashes", "max_length"])
def test_sizes_below_one_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key} is 0; it must be at least 1"):
        words(**{key: 0})


def test_a_step_changes_the_rows_of_its_words_alone() -> None:
    conditioner = words()
    before = conditioner.word_embedder.weight.detach().clone()
    optimizer = torch.optim.Adam(conditioner.parameters(), lr=0.1)
    conditioner(["a bell", ""], "cpu")[0].square().sum().backward()
    optimizer.step()
    changed = (conditioner.word_embedder.weight != before).any(dim=1).nonzero().flatten().tolist()
    assert changed == sorted({*tokenizer().rows("a"), *tokenizer().rows("bell")})


@pytest.mark.parametrize("masked", [False, True])
def test_a_model_that_reads_words_trains_and_renders(tmp_path: Path, masked: bool) -> None:
    config = tiny_config()
    entry = {"id": "prompt", "type": "words", "config": {"vocab_size": 64, "max_length": 12}}
    config["model"]["conditioning"]["configs"] = [entry]
    diffusion = config["model"]["diffusion"]
    diffusion |= {"cross_attention_cond_ids": ["prompt"], "global_cond_ids": []}
    diffusion["config"]["mask_cross_attention"] = masked
    del diffusion["config"]["global_cond_dim"]
    run = tiny_run(tmp_path, config, max_steps=1)
    assert run.start() == 0
    model, _ = load_model(tmp_path / "run")
    assert isinstance(model, DiffusionModel)
    with torch.no_grad():  # a fresh backbone ends in zeros
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    bell, drum, nothing = (
        generate(model, [{"prompt": text}], seeds=1, steps=2, cfg_scale=3.0)
        for text in ("a bell", "a drum", "")
    )
    assert torch.isfinite(torch.stack([bell, drum, nothing])).all()
    assert not torch.allclose(bell, drum)
    assert not torch.allclose(bell, nothing)
