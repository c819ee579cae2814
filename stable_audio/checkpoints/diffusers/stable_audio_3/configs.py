"""Configurations of our networks -> config.json of diffusers' Stable Audio 3 layout, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stable_audio.backbones.dit import DiT
from stable_audio.checkpoints.diffusers.arguments import defaults_of
from stable_audio.checkpoints.diffusers.stable_audio_3.tables import LOCAL, TEXT, TOTAL
from stable_audio.nn.attention import AttentionOptions
from stable_audio.nn.feedforward import FeedForwardOptions
from stable_audio.pretransforms.same import SAMEDecoder, SAMEEncoder

DIT_CLASS, VAE_CLASS = "StableAudio3DiTModel", "AutoencoderSAME"
NUMBER_CLASS, PIPELINE = "StableAudio3DurationEmbedder", "StableAudio3Pipeline"
POST_TRAINED = "rf_denoiser"
DIT_KEYS = (
    *("io_channels", "embed_dim", "depth", "num_heads", "cond_token_dim", "global_cond_dim"),
    *("timestep_features_dim", "num_memory_tokens"),
)
"""Arguments with one name on both sides."""

STAGE_KEYS = ("channels", "c_mults", "strides", "transformer_depths")


def dit_config(options: Mapping[str, Any]) -> dict[str, Any]:
    """`model.diffusion.config` -> config.json of StableAudio3DiTModel."""
    options = {**defaults_of(DiT), **options}
    attention = {**defaults_of(AttentionOptions), **_nested(options["attn_kwargs"])}
    feedforward = {**defaults_of(FeedForwardOptions), **_nested(options["ff_kwargs"])}
    return {
        "_class_name": DIT_CLASS,
        **{key: options[key] for key in DIT_KEYS},
        "patch_size": 1,
        "local_add_cond_dim": options["io_channels"] + 1,
        "ff_mult": feedforward["mult"],
        "use_differential_attention": attention["differential"],
    }


def dit_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of StableAudio3DiTModel -> `model.diffusion.config`."""
    return {
        **{key: config[key] for key in (*DIT_KEYS, "local_add_cond_dim", "patch_size")},
        "transformer_type": "continuous_transformer",
        "global_cond_type": "adaLN",
        "timestep_features_type": "expo",
        "norm_type": "rms_norm",
        "norm_kwargs": {"force_fp32": True, "eps": 1e-6},
        "attn_kwargs": {"qk_norm": "rms", "differential": config["use_differential_attention"]},
        "ff_kwargs": {"mult": config["ff_mult"]},
    }


def same_config(spec: Mapping[str, Any], sample_rate: int) -> dict[str, Any]:
    """Autoencoder config -> config.json of AutoencoderSAME."""
    encoder = {**defaults_of(SAMEEncoder), **(spec["encoder"].get("config") or {})}
    decoder = {**defaults_of(SAMEDecoder), **(spec["decoder"].get("config") or {})}
    patched = spec["pretransform"]["config"]
    stages = len(encoder["strides"])
    return {
        "_class_name": VAE_CLASS,
        "audio_channels": patched["channels"],
        "patch_size": patched["patch_size"],
        **{f"encoder_{key}": encoder[key] for key in STAGE_KEYS},
        "latent_dim": spec["latent_dim"],
        "use_differential_attention": encoder["differential"],
        "dim_heads": encoder["dim_heads"],
        "ff_mult": encoder["ff_mult"],
        "sliding_window": encoder["sliding_window"][0],
        "encoder_sinusoidal_blocks": [0] * stages,
        "decoder_sinusoidal_blocks": decoder["sinusoidal_blocks"] or [0] * stages,
        "sampling_rate": sample_rate,
    }


def autoencoder_spec(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of AutoencoderSAME -> autoencoder config.

    Raises:
        ValueError: it has sinusoidal layers in the encoder, which ours never has.
    """
    if any(n > 1 for n in config["encoder_sinusoidal_blocks"]):
        found = list(config["encoder_sinusoidal_blocks"])
        raise ValueError(f"encoder_sinusoidal_blocks is {found}, but only encoders with 0 can be read")
    channels, patch = config["audio_channels"], config["patch_size"]
    stages = {
        **{key: config[f"encoder_{key}"] for key in STAGE_KEYS},
        "latent_dim": config["latent_dim"],
        "sliding_window": [config["sliding_window"]] * 2,
        "differential": config["use_differential_attention"],
        "dyt": True,
        "dim_heads": config["dim_heads"],
        "ff_mult": config["ff_mult"],
        "variable_stride": True,
    }
    sinusoidal = list(config["decoder_sinusoidal_blocks"])
    if len(sinusoidal) == 1:  # one number for all stages
        sinusoidal *= len(config["encoder_strides"])
    width, ratio = channels * patch, patch
    for stride in config["encoder_strides"]:
        ratio *= stride
    decoder = {**stages, "out_channels": width, "sinusoidal_blocks": sinusoidal}
    softnorm = {"dim": config["latent_dim"], "noise_regularize": True, "auto_scale": True, "freeze": True}
    return {
        "encoder": {"type": "same", "config": {**stages, "in_channels": width}},
        "decoder": {"type": "same", "config": decoder},
        "bottleneck": {"type": "softnorm", "config": softnorm},
        "pretransform": {"type": "patched", "config": {"channels": channels, "patch_size": patch}},
        "latent_dim": config["latent_dim"],
        "downsampling_ratio": ratio,
        "io_channels": channels,
    }


def number_config(module: Any) -> dict[str, Any]:
    """Number conditioner -> config.json of StableAudio3DurationEmbedder."""
    return {
        "_class_name": NUMBER_CLASS,
        "output_dim": module.output_dim,
        "fourier_dim": module.embedder.embedding[1].in_features,
        "min_val": module.min_val,
        "max_val": module.max_val,
        "min_freq": 0.5,
        "max_freq": 10_000.0,
    }


def scheduler_config(objective: str) -> dict[str, Any]:
    """`diffusion_objective` -> scheduler_config.json; post-trained models are sampled by ping-pong."""
    return {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1,
        "shift": 1.0,
        "use_dynamic_shifting": False,
        "stochastic_sampling": objective == POST_TRAINED,
    }


def model_config(
    transformer: Mapping[str, Any],
    vae: Mapping[str, Any],
    duration: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    text: Mapping[str, Any],
) -> dict[str, Any]:
    """config.json of all parts -> a model config.

    Args:
        text: `config` of the text conditioner.
    """
    spec = autoencoder_spec(vae)
    rate, ratio, maximum = vae["sampling_rate"], spec["downsampling_ratio"], duration["max_val"]
    total = {k: duration[k] for k in ("min_val", "max_val")} | {"fourier_features_type": "expo"}
    post_trained = scheduler.get("stochastic_sampling", False)
    return {
        "model_type": "diffusion_cond_inpaint",
        "sample_rate": rate,
        # The layout has no length of its own: the longest clip that its range of seconds allows.
        "sample_size": max(1, int(maximum * rate) // ratio) * ratio,
        "audio_channels": vae["audio_channels"],
        "model": {
            "io_channels": transformer["io_channels"],
            "pretransform": {"type": "autoencoder", "config": spec},
            "conditioning": {
                "cond_dim": transformer["cond_token_dim"],
                "configs": [
                    {"id": TEXT, "type": "t5gemma", "config": dict(text)},
                    {"id": TOTAL, "type": "number", "config": total},
                ],
            },
            "diffusion": {
                "type": "dit",
                "diffusion_objective": POST_TRAINED if post_trained else "rectified_flow",
                "cross_attention_cond_ids": [TEXT, TOTAL],
                "global_cond_ids": [TOTAL],
                "local_add_cond_ids": list(LOCAL),
                "config": dit_options(transformer),
            },
        },
    }


def _nested(options: Any) -> dict[str, Any]:
    """Options that a config gives as an object; empty where it leaves them out."""
    return dict(options) if isinstance(options, Mapping) else {}
