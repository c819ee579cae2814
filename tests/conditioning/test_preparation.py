"""Texts that are tokenised ahead of time, in another process."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from stable_audio.conditioning import CONDITIONERS, MultiConditioner
from stable_audio.conditioning.pretrained.tokens import TextTokens, TokenisedText
from stable_audio.conditioning.scalars import NumberConditioner
from tests.conditioning.test_text_encoder import V, save

pytest.importorskip("transformers")


def model(folder: Path) -> MultiConditioner:
    torch.manual_seed(0)
    place = str(folder)
    clip = {"width": 8, "layers": 1, "heads": 2, "max_length": 9, "vocab_size": V, "tokenizer": place}
    return MultiConditioner(
        {
            "prompt": CONDITIONERS["text_encoder"](output_dim=16, model_name=place, max_length=9),
            "words": CONDITIONERS["lut"](
                output_dim=4, tokenizer_name=place, max_length=7, special_tokens=["!"]
            ),
            "style": CONDITIONERS["clip_text"](output_dim=8, **clip),
            "bytes": CONDITIONERS["clip_text"](output_dim=8, width=8, layers=1, heads=2, vocab_size=258),
            "seconds": NumberConditioner(output_dim=4, max_val=9),
        },
        default_keys={"words": "prompt", "style": "prompt"},
    ).eval()


def test_tokens_from_another_process_give_the_same_conditioning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, "bert")
    multi = model(tmp_path)
    items = [{"prompt": text, "bytes": text, "seconds": 3} for text in ["rock drum !", 1999, ""]]
    expected = multi(items, "cpu")
    preparation = multi.text_preparation()
    assert preparation is not None
    assert set(preparation.tokens) == {"prompt", "words", "style"}
    sent = pickle.loads(pickle.dumps(preparation.load()))
    prepared = pickle.loads(pickle.dumps(sent(items)))
    assert [item["prompt"] for item in prepared] == ["rock drum !", "1999", ""]
    assert all(isinstance(item[key], TokenisedText) for item in prepared for key in preparation.tokens)
    assert items[0] == {"prompt": "rock drum !", "bytes": "rock drum !", "seconds": 3}

    def refuse(self: TextTokens, texts: list[str]) -> list[TokenisedText]:
        raise AssertionError(f"{texts} are tokenised again")

    monkeypatch.setattr(TextTokens, "tokenised", refuse)
    found = multi(prepared, "cpu")
    for key, (tensor, mask) in expected.items():
        assert torch.equal(found[key][0], tensor)
        assert mask is not None
        assert torch.equal(found[key][1], mask)  # type: ignore[arg-type]


def test_tokens_of_another_recipe_are_not_taken(tmp_path: Path) -> None:
    save(tmp_path, "bert")
    short, long = (
        CONDITIONERS["text_encoder"](output_dim=16, model_name=str(tmp_path), max_length=n).eval()
        for n in (4, 9)
    )
    (text,) = short.tokens.tokenised(["rock drum loop soft"])
    assert torch.equal(long([text], "cpu")[0], long(["rock drum loop soft"], "cpu")[0])


def test_a_missing_tokenizer_is_an_error_before_any_data_is_loaded(tmp_path: Path) -> None:
    save(tmp_path, "bert")
    preparation = model(tmp_path).text_preparation()
    assert preparation is not None
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(OSError, match="no tokenizer at"):
        preparation.load()


def test_a_text_with_tokens_is_the_text() -> None:
    text = TokenisedText("rock", ("x",), [1, 2], [True, False])
    assert text == "rock"
    assert f"{text} drum" == "rock drum"
    again = pickle.loads(pickle.dumps(text))
    assert (again, again.recipe, again.ids, again.mask) == ("rock", ("x",), (1, 2), (True, False))
