"""Checkpoints of Stable Audio 3: their keys, and names that were in use before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from stable_audio.checkpoints import CheckpointError, load_model
from stable_audio.checkpoints.keys import to_sat
from stable_audio.checkpoints.weights import load_weights
from stable_audio.factory import create_model_from_config
from stable_audio.nn.attention import Attention, AttentionOptions
from stable_audio.pretransforms.fingerprint import pretransform_hash

CODER = {
    "channels": 4,
    "c_mults": [2],
    "strides": [2],
    "latent_dim": 3,
    "transformer_depths": [2],
    "sliding_window": [1, 1],
    "dim_heads": 4,
    "variable_stride": True,
}
CONFIG: dict[str, Any] = {
    "model_type": "diffusion_cond_inpaint",
    "sample_size": 64,
    "sample_rate": 16000,
    "audio_channels": 1,
    "model": {
        "io_channels": 3,
        "pretransform": {
            "type": "autoencoder",
            "config": {
                "encoder": {"type": "same", "config": {"in_channels": 4, **CODER}},
                "decoder": {"type": "same", "config": {"out_channels": 4, **CODER}},
                "bottleneck": {"type": "softnorm", "config": {"dim": 3, "auto_scale": True, "freeze": True}},
                "pretransform": {"type": "patched", "config": {"channels": 1, "patch_size": 4}},
                "latent_dim": 3,
                "downsampling_ratio": 8,
                "io_channels": 1,
            },
        },
        "conditioning": {
            "cond_dim": 8,
            "configs": [
                {
                    "id": "seconds_total",
                    "type": "number",
                    "config": {"min_val": 0, "max_val": 384, "fourier_features_type": "expo"},
                }
            ],
        },
        "diffusion": {
            "type": "dit",
            "diffusion_objective": "rectified_flow",
            "cross_attention_cond_ids": ["seconds_total"],
            "global_cond_ids": ["seconds_total"],
            "local_add_cond_ids": ["inpaint_mask", "inpaint_masked_input"],
            "mask_padding_attention": True,
            "config": {
                "io_channels": 3,
                "embed_dim": 16,
                "depth": 1,
                "num_heads": 2,
                "cond_token_dim": 8,
                "global_cond_dim": 8,
                "local_add_cond_dim": 4,
                "global_cond_type": "adaLN",
                "timestep_features_type": "expo",
                "norm_type": "rms_norm",
                "norm_kwargs": {"force_fp32": True},
                "attn_kwargs": {"qk_norm": "rms", "differential": True},
                "num_memory_tokens": 2,
            },
        },
    },
}


def published(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Random weights under the keys of a published file."""
    generator = torch.Generator().manual_seed(0)
    state = {k: torch.rand(v.shape, generator=generator) for k, v in model.state_dict().items()}
    return to_sat(state, CONFIG)


def test_a_published_file_loads_key_by_key(tmp_path: Path) -> None:
    state = published(create_model_from_config(CONFIG))
    assert state["pretransform.model.bottleneck.noise_scaling_factor"].shape == (1, 0, 1)
    layer = "model.model.transformer.layers.0."
    assert {layer + "self_attn.q_norm.gamma", layer + "to_local_embed.2.bias"} < set(state)
    assert not any(k.startswith("model.model.timestep_features") for k in state)
    assert sum(k.startswith("conditioner.") for k in state) == 2
    save_file(state, tmp_path / "m.safetensors")
    model, _ = load_model(tmp_path / "m.safetensors", config=CONFIG)
    found = to_sat(model.state_dict(), CONFIG)
    assert set(found) == set(state)
    assert all(torch.equal(found[k], v) for k, v in state.items())
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_a_parameter_without_elements_need_not_be_in_a_file(tmp_path: Path) -> None:
    model = create_model_from_config(CONFIG)
    state = published(model)
    del state["pretransform.model.bottleneck.noise_scaling_factor"]
    save_file({**state, "model.model.nothing": torch.empty(1, 0, 1)}, tmp_path / "m.safetensors")
    loaded, _ = load_model(tmp_path / "m.safetensors", config=CONFIG)
    assert loaded.pretransform.model.bottleneck.noise_scaling_factor.device.type == "cpu"
    with pytest.raises(CheckpointError):
        load_weights(model, {"pretransform.model.bottleneck.noise_scaling_factor": torch.empty(1, 0, 1)})


def test_a_parameter_without_elements_does_not_change_the_hash() -> None:
    pretransform = create_model_from_config(CONFIG).pretransform
    before = pretransform_hash(pretransform)
    del pretransform.model.bottleneck.noise_scaling_factor
    assert pretransform_hash(pretransform) == before


@pytest.mark.parametrize("resumed", [False, True])
def test_norms_of_queries_load_by_the_name_that_they_had(resumed: bool) -> None:
    attention = Attention(8, dim_heads=4, options=AttentionOptions(qk_norm="rms"))
    state = attention.state_dict()
    stored = {k.replace("norm.gamma", "norm.weight"): torch.rand_like(v) for k, v in state.items()}
    assert "q_norm.weight" in stored
    if resumed:
        attention.load_state_dict(dict(stored))
    else:
        load_weights(attention, stored)
    assert torch.equal(attention.q_norm.gamma, stored["q_norm.weight"])
