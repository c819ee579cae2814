"""t5gemma around a tiny encoder on disk; its numbers are checked by the golden case cond_t5gemma_tiny."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.conditioning import MultiConditioner
from stable_audio.conditioning.t5gemma import T5GemmaConditioner
from tests.conditioning import tiny_encoders as tiny

pytest.importorskip("transformers")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    tiny.save_t5gemma(tmp_path / "model" / "gemma")
    return str(tmp_path / "model")


def test_the_encoder_of_a_whole_model_is_read(folder: str) -> None:
    """The published folder holds encoder and decoder; the golden case's has the encoder alone."""
    from transformers import T5GemmaModel

    whole = T5GemmaModel.from_pretrained(f"{folder}/gemma", dtype=torch.float32).eval()
    conditioner = T5GemmaConditioner(
        output_dim=16, model_path=folder, subfolder="gemma", max_length=7, encoder_dtype="float32"
    ).eval()
    found, mask = conditioner(tiny.TEXTS, "cpu")
    ids, valid = conditioner.tokens(tiny.TEXTS)
    with torch.no_grad():
        expected = whole.encoder(input_ids=ids, attention_mask=valid).last_hidden_state
    torch.testing.assert_close(found, expected * valid.unsqueeze(-1))
    assert torch.equal(mask, valid)
    assert valid.sum(dim=1).tolist() == [4, 3, 1, 3]
    assert not conditioner.state_dict()
    assert conditioner.network.count() == sum(p.numel() for p in whole.encoder.parameters())


def test_learned_padding_trains_and_is_stored(folder: str) -> None:
    conditioner = T5GemmaConditioner(
        output_dim=5, model_path=folder, subfolder="gemma", max_length=7, padding_mode="learned"
    )
    assert set(conditioner.state_dict()) == {"proj_out.weight", "proj_out.bias", "padding_embedding"}
    found, mask = conditioner(["rock"], "cpu")
    found.sum().backward()
    assert conditioner.padding_embedding is not None
    assert conditioner.padding_embedding.grad is not None
    assert conditioner.padding_embedding.grad.tolist() == [float((~mask).sum())] * 5
    assert torch.equal(found[0, -1], conditioner.padding_embedding)


def test_a_trained_encoder_gets_gradients_and_is_stored(folder: str) -> None:
    conditioner = T5GemmaConditioner(
        output_dim=16, model_path=folder, subfolder="gemma", max_length=7, enable_grad=True
    )
    assert {p.dtype for p in conditioner.model.parameters()} == {torch.float32}
    conditioner(["rock drum"], "cpu")[0].square().sum().backward()
    assert all(p.grad is not None for p in conditioner.model.parameters())
    assert all(k.startswith("model.") for k in conditioner.state_dict())


def test_a_frozen_encoder_keeps_its_type_when_it_moves(folder: str) -> None:
    conditioner = T5GemmaConditioner(output_dim=16, model_path=folder, subfolder="gemma", max_length=7)
    assert {p.dtype for p in conditioner.encoder("cpu").parameters()} == {torch.bfloat16}  # as stored
    moved = MultiConditioner({"prompt": conditioner}).to(device="meta", dtype=torch.float16)
    encoder: Any = moved.conditioners["prompt"].encoder("cpu")  # type: ignore[operator]
    assert {(p.dtype, p.device.type) for p in encoder.parameters()} == {(torch.bfloat16, "meta")}


def test_the_published_size_needs_no_download() -> None:
    conditioner = T5GemmaConditioner(output_dim=768)
    with torch.device("meta"):
        counted = sum(p.numel() for p in conditioner.network._load().parameters())
    assert conditioner.network.count() == counted == 281_580_288
    assert conditioner.dim == 768


def test_what_cannot_be_loaded_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    missing = T5GemmaConditioner(output_dim=4, model_path="/nowhere/gemma")
    with pytest.raises(
        OSError, match="model_path '/nowhere/gemma' cannot be loaded: it is neither a folder nor"
    ):
        missing(["rock"], "cpu")
    with pytest.raises(ValueError, match="model_name 'google/t5gemma-9b' is neither a folder"):
        T5GemmaConditioner(output_dim=4, model_name="google/t5gemma-9b")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(ValueError, match="holds a model of the kind 't5', not t5gemma"):
        T5GemmaConditioner(output_dim=4, model_path=str(tmp_path))


def test_a_folder_without_the_weights_is_refused(folder: str) -> None:
    from safetensors.torch import load_file, save_file

    file = f"{folder}/gemma/model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "embed_tokens" not in k}, file, {"format": "pt"})
    conditioner = T5GemmaConditioner(output_dim=16, model_path=folder, subfolder="gemma")
    with pytest.raises(OSError, match=r"another kind of network: 1 weights .* 'encoder.embed_tokens.weight'"):
        conditioner(["rock"], "cpu")
