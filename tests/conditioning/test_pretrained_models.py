"""Pretrained encoders as parts of a whole model: what its checkpoints hold, and how they are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.checkpoints import export, load_model
from stable_audio.factory import create_model_from_config
from tests.conditioning import tiny_encoders as tiny
from tests.config import examples

pytest.importorskip("transformers")


def config(folder: Path, kind: str, *, train: bool = False) -> dict[str, Any]:
    """A model whose prompt is read by a pretrained encoder in `folder`."""
    options = {
        "t5gemma": {"model_path": str(folder), "max_length": 7, "enable_grad": train},
        "text_encoder": {"model_name": str(folder), "max_length": 7, "enable_grad": train},
        "clap_text": {"clap_ckpt_path": str(folder), "use_text_features": True, "finetune": train},
    }[kind]
    if kind == "clap_text":
        options["max_length"] = 20
        tiny.save_clap(folder)
    else:
        tiny.save_t5gemma(folder)
    data = examples.cond()
    for entry in data["model"]["conditioning"]["configs"]:
        if entry["id"] == "prompt":
            entry.update(type=kind, config=options)
    return data


def prompt(model: Any, text: str = "rock drum") -> torch.Tensor:
    with torch.no_grad():
        return model.conditioner.conditioners["prompt"]([text], "cpu")[0]


@pytest.mark.parametrize("kind", ["t5gemma", "text_encoder", "clap_text"])
def test_a_frozen_encoder_is_in_no_checkpoint(tmp_path: Path, kind: str) -> None:
    data = config(tmp_path / "encoder", kind)
    model = create_model_from_config(data)
    expected = prompt(model)
    assert "model" not in {k.split(".")[3] for k in model.state_dict() if k.startswith("conditioner.")}
    export(model, tmp_path / "m.safetensors", config=data)
    loaded, _ = load_model(tmp_path / "m.safetensors")
    torch.testing.assert_close(prompt(loaded), expected)


@pytest.mark.parametrize("kind", ["t5gemma", "text_encoder", "clap_text"])
def test_a_trained_encoder_is_loaded_without_the_weights_that_it_started_from(
    tmp_path: Path, kind: str
) -> None:
    data = config(tmp_path / "encoder", kind, train=True)
    model = create_model_from_config(data).eval()
    with torch.no_grad():
        for parameter in model.conditioner.conditioners["prompt"].model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    expected = prompt(model)
    export(model, tmp_path / "m.safetensors", config=data)
    (tmp_path / "encoder" / "model.safetensors").unlink()
    loaded, _ = load_model(tmp_path / "m.safetensors")
    torch.testing.assert_close(prompt(loaded), expected)
    assert any(k.startswith("conditioner.conditioners.prompt.model.") for k in loaded.state_dict())


@pytest.mark.parametrize("wrapper", ["model.", ""])
def test_a_fine_tuned_clap_of_stable_audio_tools_is_loaded(tmp_path: Path, wrapper: str) -> None:
    """It is stored under LAION's names, with the projection of sounds and more without effect."""
    data = config(tmp_path / "encoder", "clap_text", train=True)
    model = create_model_from_config(data).eval()
    place = "conditioner.conditioners.prompt.model."
    state = {k.replace("backbone.", "model.model.", 1): v for k, v in model.state_dict().items()}
    own = {k: state.pop(k) for k in list(state) if k.startswith(place)}
    stored = tiny.laion_state(tiny.clap())
    stored = {k: v for k, v in stored.items() if not k.startswith("audio_branch.") and "_ids" not in k}
    stored |= {k: v + 0.1 for k, v in stored.items() if k.startswith(("text_branch.", "text_projection."))}
    torch.save(
        {"state_dict": {**state, **{f"{place}{wrapper}{k}": v for k, v in stored.items()}}},
        tmp_path / "a.ckpt",
    )
    loaded, _ = load_model(tmp_path / "a.ckpt", config=data)
    found = loaded.state_dict()
    assert {k for k in found if k.startswith(place)} == set(own)
    word = "embeddings.word_embeddings.weight"
    assert torch.equal(found[f"{place}text_model.{word}"], stored[f"text_branch.{word}"])
    assert torch.equal(found[f"{place}text_projection.linear2.bias"], stored["text_projection.2.bias"])
    for name in ("position_ids", "token_type_ids"):
        key = f"{place}text_model.embeddings.{name}"
        assert torch.equal(found[key], own[key])
