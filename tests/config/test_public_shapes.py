"""Files of the shapes that people publish, small: each loads, or says in a sentence why not."""

from __future__ import annotations

from typing import Any

import pytest

from stable_audio.config import ConfigError, load_config
from stable_audio.factory import create_model_from_config
from tests.config import examples

Data = dict[str, Any]


def coder(kind: str, encoder: Data, decoder: Data, *, ratio: int, **model: Any) -> Data:
    """An autoencoder file with these coders."""
    data = examples.autoencoder()
    data["sample_size"] = 32000
    data["model"] = {
        "encoder": {"type": kind, "config": encoder},
        "decoder": {"type": kind, "config": decoder},
        "bottleneck": {"type": "vae"},
        "latent_dim": 4,
        "downsampling_ratio": ratio,
        "io_channels": 2,
        **model,
    }
    del data["training"]
    return data


OOBLECK = {"channels": 4, "c_mults": [1, 2], "strides": [2, 4]}
TAAE = {**OOBLECK, "channels": 128, "transformer_depths": [1, 1], "sliding_window": [3, 4]}
SEANET = {"channels": 2, "n_filters": 4, "ratios": [2, 4], "lstm": 1, "norm": "weight_norm"}


def clap(kind: str) -> Data:
    """A 1.0 model: U-Net, integers, and text features of LAION's CLAP by the path of its file."""
    data = examples.cond()
    unet = {
        "in_channels": 4,
        "channels": 32,
        "multipliers": [1, 1, 2],
        "factors": [1, 2],
        "num_blocks": [1, 1],
        "attentions": [1, 1, 1],
        "attention_heads": 2,
        "context_embedding_features": 8,
        "context_embedding_max_length": 79,
    }
    data["model"]["diffusion"] = {
        "type": "adp_cfg_1d",
        "config": unet,
        "cross_attention_cond_ids": ["prompt", "seconds_start", "seconds_total"],
    }
    data["model"]["conditioning"]["configs"][0] = {
        "id": "prompt",
        "type": kind,
        "config": {
            "clap_ckpt_path": "/path/to/clap.ckpt",
            "audio_model_type": "HTSAT-base",
            "enable_fusion": True,
        },
    }
    del data["training"]
    return data


def dance() -> Data:
    """Dance diffusion: an unconditional U-Net on the waveform."""
    config = {"io_channels": 2, "n_attn_layers": 1, "depth": 3, "channels": [32, 32, 32], "strides": [2, 2]}
    return {
        "model_type": "diffusion_uncond",
        "sample_size": 65536,
        "sample_rate": 44100,
        "model": {"type": "DAU1d", "config": config},
        "training": {"learning_rate": 1e-4, "demo": {"demo_every": 2000, "demo_steps": 250}},
    }


def thirty_seconds() -> Data:
    data = examples.cond()
    data["sample_size"] = 16000 * 30 + 1
    return data


LOADING: dict[str, Data] = {
    "30 seconds": thirty_seconds(),
    "oobleck": coder(
        "oobleck",
        {**OOBLECK, "in_channels": 2, "latent_dim": 8, "use_snake": True},
        {**OOBLECK, "out_channels": 2, "latent_dim": 4, "use_snake": True, "final_tanh": False},
        ratio=8,
    ),
    "dac": coder(
        "dac",
        {"in_channels": 2, "latent_dim": 8, "d_model": 4, "strides": [2, 4]},
        {"out_channels": 2, "latent_dim": 4, "channels": 16, "rates": [4, 2]},
        ratio=8,
    ),
    "seanet": coder("seanet", {**SEANET, "dimension": 8}, {**SEANET, "dimension": 4}, ratio=8),
    "taae": coder(
        "taae",
        {**TAAE, "in_channels": 2, "latent_dim": 8},
        {**TAAE, "out_channels": 2, "latent_dim": 4},
        ratio=8,
    ),
    "wavelet": coder(
        "oobleck",
        {**OOBLECK, "in_channels": 8, "latent_dim": 8},
        {**OOBLECK, "out_channels": 8, "latent_dim": 4},
        ratio=32,
        pretransform={"type": "wavelet", "config": {"channels": 2, "levels": 2, "wavelet": "bior4.4"}},
    ),
    "musicgen tokens": coder(
        "seanet",
        {**SEANET, "dimension": 4},
        {**SEANET, "dimension": 4},
        ratio=8,
        bottleneck={
            "type": "rvq",
            "config": {"num_quantizers": 2, "codebook_size": 16, "dim": 4, "decay": 0.99},
        },
    ),
    "dance diffusion": dance(),
    "clap_text": clap("clap_text"),
    "clap_audio": clap("clap_audio"),
}


@pytest.mark.parametrize("name", LOADING)
def test_they_load_and_build(name: str) -> None:
    config = load_config(LOADING[name])
    assert not config.untrainable
    assert sum(p.numel() for p in create_model_from_config(config, device="meta").parameters())


def test_a_model_of_tokens_is_told_so_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    data = examples.cond()
    data["model_type"] = "lm"
    data["model"] = {
        "pretransform": {"type": "audiocraft_pretrained", "config": {"model_type": "facebook/encodec_32khz"}},
        "conditioning": data["model"]["conditioning"],
        "lm": {"type": "continuous_transformer", "codebook_pattern": "delay", "config": {"embed_dim": 8}},
    }
    with pytest.raises(ConfigError) as caught:
        load_config(data)
    (problem,) = caught.value.problems
    assert "a model of audio tokens" in problem.message
    assert "wired to no slot" not in caplog.text
