"""Configurations of our networks -> config.json of diffusers' Stable Audio layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stable_audio.backbones.dit import DiT
from stable_audio.checkpoints.diffusers.arguments import defaults_of
from stable_audio.pretransforms.oobleck import OobleckDecoder, OobleckEncoder

SCHEDULER = {
    "_class_name": "CosineDPMSolverMultistepScheduler",
    "sigma_min": 0.3,
    "sigma_max": 500,
    "sigma_data": 1.0,
    "prediction_type": "v_prediction",
    "sigma_schedule": "exponential",
    "solver_order": 2,
}


def dit_config(options: Mapping[str, Any], frames: int) -> dict[str, Any]:
    """`model.diffusion.config` -> config.json of StableAudioDiTModel.

    Args:
        frames: latent frames of a clip.
    """
    options = {**defaults_of(DiT), **options}
    width, tokens = options["embed_dim"], options["cond_token_dim"]
    head = width // options["num_heads"]
    cross = width if options["project_cond_tokens"] else tokens
    return {
        "_class_name": "StableAudioDiTModel",
        "sample_size": frames,
        "in_channels": options["io_channels"],
        "out_channels": options["io_channels"],
        "num_layers": options["depth"],
        "attention_head_dim": head,
        "num_attention_heads": options["num_heads"],
        "num_key_value_attention_heads": cross // head,
        "cross_attention_dim": cross,
        "cross_attention_input_dim": tokens,
        "global_states_input_dim": options["global_cond_dim"],
        "time_proj_dim": options["timestep_features_dim"],
    }


def oobleck_config(spec: Mapping[str, Any], sample_rate: int) -> dict[str, Any]:
    """Autoencoder config -> config.json of AutoencoderOobleck."""
    encoder = {**defaults_of(OobleckEncoder), **(spec["encoder"].get("config") or {})}
    decoder = {**defaults_of(OobleckDecoder), **(spec["decoder"].get("config") or {})}
    return {
        "_class_name": "AutoencoderOobleck",
        "encoder_hidden_size": encoder["channels"],
        "downsampling_ratios": list(encoder["strides"]),
        "channel_multiples": list(encoder["c_mults"]),
        "decoder_channels": decoder["channels"],
        "decoder_input_channels": spec["latent_dim"],
        "audio_channels": spec["io_channels"],
        "sampling_rate": sample_rate,
    }


def projection_config(prompt: Any, start: Any) -> dict[str, Any]:
    """T5 conditioner and that of the start -> config.json of StableAudioProjectionModel."""
    return {
        "_class_name": "StableAudioProjectionModel",
        "text_encoder_dim": prompt.dim,
        "conditioning_dim": prompt.output_dim,
        "min_value": start.min_val,
        "max_value": start.max_val,
    }
