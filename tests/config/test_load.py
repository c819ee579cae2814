"""Model files: every mistake in one run, at its path; nothing else changes them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from stable_audio.config import ConfigError, load_config
from tests.config import examples

MAKERS = [
    examples.cond,
    examples.uncond,
    examples.inpaint,
    examples.autoencoder,
    examples.diffusion_autoencoder,
]


def errors(data: Any, **options: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(data, **options)
    return [str(p) for p in caught.value.problems]


@pytest.mark.parametrize("make", MAKERS)
def test_valid_files_come_back_unchanged(make: Any) -> None:
    data = make()
    config = load_config(data)
    assert config.as_dict() == make()
    assert data == make()
    assert load_config(config.as_dict()) == config


def test_defaults() -> None:
    training = load_config(examples.uncond()).training
    assert training.use_ema is True
    assert training.demo.count == 8
    cond = load_config(examples.cond())
    assert cond.training.cfg_dropout_prob == 0.1
    assert cond.training.demo.count == 2
    data = examples.cond()
    del data["training"]["demo"]["num_demos"]
    assert load_config(data).training.demo.count == 2


def test_all_mistakes_at_once_in_the_format_of_the_design() -> None:
    data = examples.cond()
    model = data["model"]
    model["diffusion"]["config"]["depht"] = model["diffusion"]["config"].pop("depth")
    model["diffusion"]["global_cond_ids"] = ["seconds_start", "seconds_totl"]
    model["conditioning"]["configs"][1]["config"]["min_val"] = "0"
    model["pretransform"]["config"]["decoder"]["type"] = "ooblek"
    model["diffusion"]["config"]["attn_kwargs"]["qk_norm"] = "lnn"
    data["training"]["demo"]["num_demos"] = 3
    data["training"]["optimizer_configs"]["diffusion"]["optimizer"]["type"] = "AdmW"
    data["training"]["timestep_sampler_options"] = {"mean_lognsr": 1}
    found = errors(data)
    expected = {
        "$.model.diffusion.config.depht: unknown key; did you mean 'depth'?",
        "$.model.diffusion.global_cond_ids[1]: 'seconds_totl' has no conditioner in model.conditioning."
        "configs; did you mean 'seconds_total'?",
        '$.model.conditioning.configs[1].config.min_val: found "0"; expected a number',
        "$.training.demo.num_demos: found 3, but demo_cond has 2 entries; leave num_demos out to use "
        "them all",
        "$.training.optimizer_configs.diffusion.optimizer.type: found \"AdmW\"; did you mean 'AdamW'?",
        "$.training.timestep_sampler_options.mean_lognsr: unknown key; did you mean 'mean_logsnr'?",
    }
    assert expected <= set(found)
    assert any(
        f.startswith('$.model.pretransform.config.decoder.type: found "ooblek"; allowed:') for f in found
    )
    assert any(f.startswith("$.model.diffusion.config.attn_kwargs.qk_norm: found") for f in found)
    assert len(found) == 8


def test_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    data = examples.uncond()
    data["sample_rat"] = data.pop("sample_rate")
    path.write_text(json.dumps(data))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    lines = str(caught.value).splitlines()
    assert f"{path}: $.sample_rat: unknown key; did you mean 'sample_rate'?" in lines
    assert f"{path}: $.sample_rate: missing; an integer is required here" in lines


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("diffusion_con", "did you mean 'diffusion_cond'?"),
        (None, "allowed:"),
        (3, "found 3"),
        ([], "found []"),
    ],
)
def test_unknown_model_types(kind: Any, message: str) -> None:
    data = {**examples.cond(), "model_type": kind}
    (found,) = [e for e in errors(data) if e.startswith("$.model_type")]
    assert message in found


def test_missing_model_type() -> None:
    data = examples.cond()
    del data["model_type"]
    assert any(e.startswith("$.model_type: missing; give one of 'diffusion_cond'") for e in errors(data))


def test_whole_numbers_written_as_decimals_are_integers() -> None:
    data = examples.cond()
    data["sample_size"] = 1024.0
    data["model"]["diffusion"]["config"]["depth"] = 1.0
    config = load_config(data)
    assert (config.sample_size, config.model.diffusion.config.depth) == (1024, 1)
    data["model"]["diffusion"]["config"]["depth"] = 1.5
    assert errors(data) == ["$.model.diffusion.config.depth: found 1.5; expected an integer"]


def test_lenient_turns_unknown_keys_into_warnings(caplog: pytest.LogCaptureFixture) -> None:
    data = examples.cond()
    data["model"]["diffusion"]["config"]["colour"] = 1
    data["training"]["lunch"] = True
    with caplog.at_level(logging.WARNING):
        config = load_config(data, lenient=True)
    assert config == load_config(examples.cond())
    assert "$.model.diffusion.config.colour" in caplog.text
    assert "$.training.lunch" in caplog.text
    data["sample_size"] = "1024"
    assert errors(data, lenient=True) == ['$.sample_size: found "1024"; expected an integer']


def test_errors_of_constructors_are_problems_at_their_section() -> None:
    data = examples.cond()
    data["model"]["conditioning"]["configs"][1]["config"] = {"min_val": 5, "max_val": 5}
    (found,) = errors(data)
    assert found.startswith("$.model.conditioning.configs[1].config: max_val is 5")


def test_an_autoencoder_whose_strides_do_not_fit_is_refused_with_the_numbers() -> None:
    data = examples.cond()
    data["model"]["pretransform"]["config"]["downsampling_ratio"] = 16
    (found,) = errors(data)
    assert found == (
        "$.model.pretransform.config.downsampling_ratio: found 16, but encoder and decoder work at 8 samples "
        "per latent frame; set it to 8"
    )


def test_what_disagrees_in_an_autoencoder_names_the_key_to_change_and_its_value() -> None:
    data = examples.cond()
    inner = data["model"]["pretransform"]["config"]
    inner["encoder"]["config"].update(strides=[2, 2], latent_dim=5)
    inner["decoder"]["config"].update(out_channels=1)
    part = "$.model.pretransform.config"
    assert sorted(errors(data)) == [
        f"{part}.decoder.config.out_channels: found 1, which makes 1 decoder output channels; the other "
        "parts need 2: set it to 2",
        f"{part}.encoder.config.latent_dim: found 5, which makes 5 encoder output channels; the other "
        "parts need 8: set it to 8",
        f"{part}.encoder.config.strides: found [2, 2], which makes 4 samples per latent frame, but "
        "downsampling_ratio is 8; give factors whose product is 8",
    ]


def test_a_key_that_is_left_out_is_named_where_its_default_does_not_fit() -> None:
    data = examples.cond()
    inner = data["model"]["pretransform"]["config"]
    inner.update(io_channels=1)
    del inner["encoder"]["config"]["in_channels"]
    inner["decoder"]["config"]["out_channels"] = 1
    assert [e for e in errors(data) if "encoder.config" in e] == [
        "$.model.pretransform.config.encoder.config.in_channels: left out, which makes 2 encoder input "
        "channels; the other parts need 1: set it to 1"
    ]


def test_values_that_torch_cannot_use_are_named_without_the_words_of_torch() -> None:
    data = examples.cond()
    data["model"]["pretransform"]["config"]["encoder"]["config"]["c_mults"] = [1, -3]
    (found,) = errors(data)
    assert found == (
        "$.model.pretransform.config: cannot be built with these values: look at "
        "config.encoder.config.c_mults[1] -3"
    )


def test_options_of_an_optimizer_of_a_wrong_kind_are_named() -> None:
    data = examples.cond()
    section = data["training"]["optimizer_configs"]["diffusion"]
    section["optimizer"]["config"].update(betas=[0.9, None], weight_decay="512", amsgrad=1)
    section["scheduler"] = {"type": "OneCycleLR", "config": {"total_steps": 10}}
    part = "$.training.optimizer_configs.diffusion"
    assert sorted(errors(data)) == [
        f"{part}.optimizer.config.amsgrad: found 1; expected true or false",
        f"{part}.optimizer.config.betas: found [0.9, null]; expected a list of 2 numbers",
        f'{part}.optimizer.config.weight_decay: found "512"; expected a number',
        f"{part}.scheduler.config.max_lr: missing; OneCycleLR needs it",
    ]


def test_a_list_of_thousands_is_not_quoted_whole() -> None:
    data = examples.cond()
    data["model"]["pretransform"]["config"]["encoder"]["config"]["c_mults"] = [1, 2] * 5000
    (found,) = errors(data)
    assert "c_mults has 10000 entries and strides 2" in found
    assert len(found) < 1000


def test_loading_moves_no_random_stream() -> None:
    import torch

    torch.manual_seed(0)
    before = torch.get_rng_state()
    load_config(examples.cond())
    assert torch.equal(torch.get_rng_state(), before)


def _unet(**changes: object) -> dict[str, Any]:
    data = examples.cond()
    data["model"]["diffusion"].update(
        type="unet", config={"io_channels": 4, "channels": 8, "multipliers": [1, 2], "groups": 4, **changes}
    )
    return data


def test_numbers_of_blocks_that_fill_the_memory_are_refused_at_once() -> None:
    (found, *_) = errors(_unet(blocks=10**9))
    assert found == "$.model.diffusion.config: blocks is 1000000000; at most 10000 are possible"


def test_levels_without_channels_are_refused() -> None:
    (found, *_) = errors(_unet(multipliers=[1, 0]))
    assert found.startswith("$.model.diffusion.config: channels and multipliers must be at least 1, found")


def test_nested_width_keys_of_the_unet_are_named_with_their_value() -> None:
    data = _unet(attention=[True, True], cross_attn={"dim": 7}, global_cond={"dim": 3}, channels=32)
    found = "\n".join(errors(data))
    assert "set $.model.diffusion.config.cross_attn.dim: 8, or make the conditioners 7 wide" in found
    assert "set $.model.diffusion.config.global_cond.dim: 16, or make the conditioners 3 wide" in found


def test_a_slot_that_is_not_read_is_opened_by_the_key_that_is_named() -> None:
    found = "\n".join(errors(_unet()))
    assert "set $.model.diffusion.config.cross_attn.dim: 8, or empty this list" in found
    assert "set $.model.diffusion.config.global_cond.dim: 16, or empty this list" in found
