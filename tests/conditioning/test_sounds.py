"""Conditioners that encode sounds: alone, and as parts of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.audio.io import save_audio
from stable_audio.checkpoints import export, load_model, load_named
from stable_audio.conditioning.sounds import PretransformConditioner, SourceMixConditioner
from stable_audio.config import ConfigError, load_config
from stable_audio.factory import create_model_from_config
from stable_audio.pretransforms import PRETRANSFORMS
from tests.config import examples

RATE = 16000


def patches(size: int = 4, **options: Any) -> Any:
    return PRETRANSFORMS["patched"](channels=1, patch_size=size, **options)


def one(width: int = 4, **options: Any) -> PretransformConditioner:
    torch.manual_seed(0)
    return PretransformConditioner(
        output_dim=width, pretransform=patches(), sample_rate=RATE, **options
    ).eval()


def mix(**options: Any) -> SourceMixConditioner:
    torch.manual_seed(0)
    given = {"output_dim": 6, "sample_rate": RATE, "source_keys": ["drums", "bass"], **options}
    return SourceMixConditioner(pretransform=patches(), **given).eval()


def test_latents_pass_unchanged_at_the_same_width() -> None:
    audio = torch.randn(2, 1, 16)
    made, mask = one()(list(audio), "cpu")
    torch.testing.assert_close(made, patches().encode(audio))
    assert mask.shape == (2, 4)
    assert mask.dtype == torch.bool
    assert mask.all()


def test_another_width_projects_channels_frame_by_frame() -> None:
    conditioner = one(3)
    audio = torch.randn(1, 20)
    made, _ = conditioner([audio], "cpu")
    assert made.shape == (1, 3, 5)
    frame, _ = conditioner([audio[:, 8:12]], "cpu")
    torch.testing.assert_close(made[..., 2:3], frame)
    assert conditioner.proj_out.weight.shape == (3, 4)


def test_every_form_of_a_sound(tmp_path: Path) -> None:
    audio = torch.rand(1, 32) - 0.5
    save_audio(tmp_path / "a.wav", audio, RATE, subtype="FLOAT")
    expected, _ = one()([audio], "cpu")
    for form in (audio[0], audio[None], audio.expand(2, -1), (RATE, audio), str(tmp_path / "a.wav")):
        torch.testing.assert_close(one()([form], "cpu")[0], expected)
    assert one()([(2 * RATE, torch.randn(1, 64))], "cpu")[0].shape == (1, 4, 8)
    for wrong in (3, torch.zeros(2, 2, 8), torch.zeros(1, 0)):
        with pytest.raises(ValueError, match="a sound"):
            one()([wrong], "cpu")


def test_shorter_sounds_are_padded() -> None:
    made, _ = one()([torch.ones(1, 7), torch.ones(1, 13)], "cpu")
    assert made.shape == (2, 4, 4)
    assert made[0, :, 2:].abs().sum() == 0
    assert made[0].sum() == 7


def test_the_pretransform_is_saved_only_on_request() -> None:
    learned = create_model_from_config(examples.cond()).pretransform
    for save in (False, True):
        conditioner = PretransformConditioner(
            output_dim=4, pretransform=learned, sample_rate=RATE, save_pretransform=save
        )
        assert any(k.startswith("pretransform.model.encoder.") for k in conditioner.state_dict()) is save
        assert conditioner.get_submodule("pretransform") is learned


def test_a_vae_gives_the_same_latents_whenever_it_is_asked_in_eval_mode() -> None:
    data = examples.cond()
    learned = create_model_from_config(data).pretransform
    conditioner = PretransformConditioner(output_dim=4, pretransform=learned, sample_rate=RATE).eval()
    sounds = list(torch.randn(2, 2, 64))
    torch.manual_seed(1)
    together = conditioner(sounds, "cpu")[0]
    apart = torch.cat([conditioner([s], "cpu")[0] for s in sounds])
    torch.testing.assert_close(together, apart)


def test_sources_are_summed_each_through_its_own_convolution() -> None:
    conditioner = mix()
    drums, bass = torch.randn(2, 1, 16)
    both, mask = conditioner([{"drums": drums, "bass": bass}], "cpu")
    only, _ = conditioner([{"drums": drums}], "cpu")
    encoded = patches().encode(bass[None])
    torch.testing.assert_close(both - only, conditioner.source_heads[1](encoded))
    assert both.shape == (1, 6, 4)
    assert mask.all()


def test_an_item_without_sources_needs_the_null_source() -> None:
    with pytest.raises(ValueError, match="at least one of"):
        mix()([{}], "cpu")
    conditioner = mix(allow_null_source=True, source_length=5)
    torch.nn.init.normal_(conditioner.null_source)
    made, _ = conditioner([{}], "cpu")
    torch.testing.assert_close(made[0], conditioner.null_source.expand(-1, 5))
    beside, _ = conditioner([{}, {"bass": torch.randn(1, 8)}], "cpu")
    torch.testing.assert_close(beside[0], conditioner.null_source.expand(-1, 2))
    with pytest.raises(ValueError, match="guitar"):
        conditioner([{"guitar": torch.randn(1, 8)}], "cpu")


def test_ready_latents_and_wrong_ones() -> None:
    conditioner, audio = mix(pre_encoded=True), torch.randn(1, 1, 16)
    latents = patches().encode(audio)
    made, _ = conditioner([{"drums": latents[0]}], "cpu")
    torch.testing.assert_close(made, mix()([{"drums": audio[0]}], "cpu")[0])
    with pytest.raises(ValueError, match="pre_encoded"):
        conditioner([{"drums": audio[0]}], "cpu")


@pytest.mark.parametrize("keys", [[], ["a", "a"]])
def test_source_keys_must_name_different_sources(keys: list[str]) -> None:
    with pytest.raises(ValueError, match="source_keys"):
        mix(source_keys=keys)


def test_all_that_takes_part_is_trained() -> None:
    conditioner = mix(allow_null_source=True).train()
    made, _ = conditioner([{"drums": torch.randn(1, 8), "bass": torch.randn(1, 8)}, {}], "cpu")
    made.square().mean().add(made.sum()).backward()
    assert all((p.grad is not None) == p.requires_grad for p in conditioner.parameters())


PATCHED = {"type": "patched", "config": {"channels": 2, "patch_size": 8}}


def with_sounds(**options: Any) -> dict[str, Any]:
    """The example model with a sound in its input_concat slot."""
    data = examples.cond()
    model = data["model"]
    model["diffusion"]["config"]["input_concat_dim"] = options.get("output_dim", 8)
    model["diffusion"]["input_concat_ids"] = ["ref"]
    config = {"sample_rate": RATE, **options}
    model["conditioning"]["configs"].append({"id": "ref", "type": "pretransform", "config": config})
    for demo in data["training"]["demo"]["demo_cond"]:
        demo["ref"] = "reference.wav"
    return data


def test_a_model_shares_its_pretransform() -> None:
    model = create_model_from_config(with_sounds(use_model_pretransform=True))
    assert model.conditioner.conditioners["ref"].pretransform is model.pretransform
    assert not any("ref.pretransform" in k for k in model.state_dict())
    audio = torch.randn(2, 64)
    item = {"prompt": "a", "seconds_total": 1, "ref": audio}
    cond = model.eval().condition([item])
    assert cond.input_concat.shape == (1, 8, 8)


def test_a_conditioner_has_its_own_pretransform() -> None:
    model = create_model_from_config(with_sounds(pretransform_config=PATCHED, output_dim=16))
    assert model.conditioner.conditioners["ref"].pretransform.downsampling_ratio == 8
    assert isinstance(model.conditioner.conditioners["ref"].proj_out, torch.nn.Identity)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "found neither"),
        ({"use_model_pretransform": True, "pretransform_config": PATCHED}, "found both"),
        ({"use_model_pretransform": True, "output_dim": 5, "width": 3}, "unknown"),
        ({"use_model_pretransform": True, "sample_rate": 0}, "sample_rate"),
        ({"pretransform_config": {"type": "patch"}}, "patched"),
    ],
)
def test_mistakes_name_their_place(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"conditioning\.configs\[3\][\s\S]*({message})"):
        load_config(with_sounds(**options))


def test_the_widths_of_sounds_are_checked() -> None:
    data = with_sounds(use_model_pretransform=True, output_dim=5)
    data["model"]["diffusion"]["config"]["input_concat_dim"] = 6
    with pytest.raises(ConfigError, match="input_concat_ids: ref 5 sum to 5, but the backbone takes 6"):
        load_config(data)


def test_sounds_go_to_input_concat_only() -> None:
    data = with_sounds(use_model_pretransform=True)
    data["model"]["diffusion"]["cross_attention_cond_ids"].append("ref")
    with pytest.raises(
        ConfigError, match=r"cross_attention_cond_ids.2.: 'ref' gives frames for the slot 'input_concat'"
    ):
        load_config(data)


@pytest.mark.parametrize("save", [False, True])
def test_weights_named_in_the_config_come_back_with_the_checkpoint(tmp_path: Path, save: bool) -> None:
    section = examples.cond()["model"]["pretransform"]
    named = {"pretransform_config": {"type": "autoencoder", "config": section["config"]}}
    autoencoder = {"model_type": "autoencoder", "sample_size": 64, "sample_rate": RATE}
    source = create_model_from_config({**autoencoder, "model": section["config"]})
    export(source, tmp_path / "ae.safetensors", config={**autoencoder, "model": section["config"]})
    named["pretransform_ckpt_path"] = "ae.safetensors"
    data = with_sounds(save_pretransform=save, **named)
    (tmp_path / "model.json").write_text(json.dumps(data))
    config = load_config(tmp_path / "model.json")
    model = create_model_from_config(config)
    load_named(model, config.weights)
    export(model, tmp_path / "model.safetensors", config=config.as_dict())
    if save:
        (tmp_path / "ae.safetensors").unlink()
    loaded, _ = load_model(tmp_path / "model.safetensors")
    found = loaded.conditioner.conditioners["ref"].pretransform.model.state_dict()
    assert all(torch.equal(v, found[k]) for k, v in source.state_dict().items())
    assert any("ref.pretransform" in k for k in loaded.state_dict()) is save


def test_a_missing_file_of_weights_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"configs\[3\].config.pretransform_ckpt_path: found 'none.ckpt'"):
        load_config(with_sounds(pretransform_config=PATCHED, pretransform_ckpt_path="none.ckpt"))
