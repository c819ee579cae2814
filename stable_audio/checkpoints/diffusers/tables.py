"""The tables of `arguments`: DiT, conditioners, autoencoder, and the sections of a config around them."""

from __future__ import annotations

from typing import Any

from stable_audio.checkpoints.diffusers.arguments import (
    Held,
    Nested,
    NetworkOptions,
    Table,
    Unused,
    only,
    shown,
)
from stable_audio.conditioning.t5 import t5_size
from stable_audio.nn.attention import AttentionOptions
from stable_audio.nn.feedforward import FeedForwardOptions
from stable_audio.nn.norms import NormOptions

TEXT, START, TOTAL = "prompt", "seconds_start", "seconds_total"
"""Ids of the conditioners that the layout has."""

AT_START = Unused("decides initial values only")
IN_TRAINING = Unused("acts in training only")
WHEN_SAMPLING = Unused("a pipeline is told at each call how to sample")
PRECISION = Unused("chooses the arithmetic, which diffusers chooses on loading")
MEMORY = Unused("chooses how the same function is computed")

ATTENTION: Table = {
    "qk_norm": only("none"),
    "qk_norm_eps": Unused("without qk_norm"),
    "differential": only(False),
    "feat_scale": only(False),
    "padding": Unused("without mask_padding_attention"),
    "causal": only(None, False),
    "zero_init_output": AT_START,
    "backend": MEMORY,
}
FEED_FORWARD: Table = {
    "mult": only(4),
    "no_bias": only(False),
    "glu": only(True),
    "use_conv": only(False),
    "conv_kernel_size": Unused("without use_conv"),
    "sinusoidal": only(False),
    "zero_init_output": AT_START,
}
NORM: Table = {
    "bias": Held("transformer"),
    "fix_scale": Held("transformer"),
    "force_fp32": PRECISION,
    "eps": only(1e-5),
}


def above_zero(value: Any, options: NetworkOptions) -> str:
    return "" if value else "only a width above 0 fits"


def head_width(value: Any, options: NetworkOptions) -> str:
    width = options["embed_dim"] // value
    # Below 64 features more than half of a head is rotated here, and other multiples round differently.
    if width >= 64 and width % 4 == 0:
        return ""
    return f"so that a head has {width} features, only 64 or more in multiples of 4 fit"


def in_every_layer(value: Any, options: NetworkOptions) -> str:
    return "" if value < 0 or value >= options["depth"] - 1 else "only -1 (all layers) fits"


DIT: Table = {
    "io_channels": Held("transformer.in_channels"),
    "patch_size": only(1),
    "embed_dim": Held("transformer.attention_head_dim"),
    "depth": Held("transformer.num_layers"),
    "num_heads": Held("transformer.num_attention_heads", head_width),
    "cond_token_dim": Held("transformer.cross_attention_input_dim", above_zero),
    "project_cond_tokens": Held("transformer.cross_attention_dim"),
    "mask_cross_attention": only(False),
    "global_cond_dim": Held("transformer.global_states_input_dim", above_zero),
    "project_global_cond": Unused("false needs equal widths, and then the layers are the same"),
    "input_concat_dim": only(0),
    "prepend_cond_dim": only(0),
    "local_add_cond_dim": only(0),
    "modular_local_dims": only(None, {}),
    "transformer_type": only("continuous_transformer"),
    "global_cond_type": only("prepend"),
    "timestep_cond_type": only("global"),
    "timestep_embed_dim": Unused("with timestep_cond_type 'global'"),
    "timestep_features_type": only("learned"),
    "timestep_features_dim": Held("transformer.time_proj_dim"),
    "timestep_features_logsnr": only(False),
    "rotary_pos_emb": only(True),
    "causal": only(False),
    "zero_init_branch_outputs": AT_START,
    "conformer": only(False),
    "use_sinusoidal_emb": only(False),
    "use_abs_pos_emb": only(False),
    "abs_pos_emb_max_length": Unused("without use_abs_pos_emb"),
    "num_memory_tokens": only(0),
    "sliding_window": only(None),
    "final_cross_attn_ix": Held("transformer.num_layers", in_every_layer),
    "attn_kwargs": Nested(AttentionOptions, ATTENTION),
    "ff_kwargs": Nested(FeedForwardOptions, FEED_FORWARD),
    "norm_kwargs": Nested(NormOptions, NORM),
    "norm_type": only("layer_norm"),
    "remove_norms": only(False),
    "add_rope": only(False),
    "layer_scale": only(False),
    "attn_layers_kwargs": only(None, {}),
    "wrapper_kwargs": only(None, {}),
}


def _projection_fits(value: Any, options: NetworkOptions) -> str:
    width, out = t5_size(options["t5_model_name"]).d_model, options["output_dim"]
    if not value or width != out:
        return ""
    return (
        f"only false fits where the text encoder's width is the output's ({out}): there is no projection then"
    )


T5: Table = {
    "output_dim": Held("projection_model.conditioning_dim"),
    "t5_model_name": Held("text_encoder"),
    "max_length": Held("tokenizer.model_max_length"),
    "enable_grad": Held("text_encoder"),
    "project_out": Held("projection_model", _projection_fits),
    "encoder_dtype": PRECISION,
    "padding_mode": only("zero"),
}
NUMBER: Table = {
    "output_dim": Held("projection_model.conditioning_dim"),
    "min_val": Held("projection_model.min_value"),
    "max_val": Held("projection_model.max_value"),
    "fourier_features_type": only("learned"),
}


def _equals_latent_dim(value: Any, options: NetworkOptions) -> str:
    out = options["latent_dim"]
    return "" if value == out else f"only {out}, the encoder's latent_dim, fits"


OOBLECK_ENCODER: Table = {
    "in_channels": Held("vae.audio_channels"),
    "channels": Held("vae.encoder_hidden_size", _equals_latent_dim),
    "latent_dim": Held("vae.encoder_hidden_size"),
    "c_mults": Held("vae.channel_multiples"),
    "strides": Held("vae.downsampling_ratios"),
    "use_snake": only(True),
    "antialias_activation": only(False),
}
OOBLECK_DECODER: Table = {
    "out_channels": Held("vae.audio_channels"),
    "channels": Held("vae.decoder_channels"),
    "latent_dim": Held("vae.decoder_input_channels"),
    "c_mults": Held("vae.channel_multiples"),
    "strides": Held("vae.downsampling_ratios"),
    "use_snake": only(True),
    "antialias_activation": only(False),
    "use_nearest_upsample": only(False),
    "final_tanh": only(False),
}
VAE: Table = {"sample": Unused("the layout's encoder gives the distribution: its mode or a sample")}


def _equals_io_channels(value: Any, options: NetworkOptions) -> str:
    channels = options["io_channels"]
    return "" if value in (None, channels) else f"only {channels}, as io_channels, fits"


AUTOENCODER: Table = {
    "encoder": Held("vae"),
    "decoder": Held("vae"),
    "bottleneck": Held("vae"),
    "latent_dim": Held("vae.decoder_input_channels"),
    "downsampling_ratio": Held("vae.downsampling_ratios"),
    "io_channels": Held("vae.audio_channels"),
    "in_channels": Held("vae.audio_channels", _equals_io_channels),
    "out_channels": Held("vae.audio_channels", _equals_io_channels),
    "pretransform": only(None),
    "latent_scale": Unused("latents of an autoencoder alone are not scaled; for a model, scale is checked"),
}
PART: Table = {"type": Held("vae"), "config": Held("vae"), "requires_grad": IN_TRAINING}
DECODER_PART: Table = {**PART, "soft_clip": only(False)}
PRETRANSFORM: Table = {
    "type": Held("vae"),
    "config": Held("vae"),
    "path": Unused("the weights are in the model"),
    "hash": Unused("the weights are in the model"),
    "scale": only(1.0),
    "model_half": PRECISION,
    "iterate_batch": MEMORY,
    "chunked": MEMORY,
    "enable_grad": IN_TRAINING,
}


def _cosine(value: Any, options: NetworkOptions) -> str:
    return "" if value is None or value.get("type") == "cosine" else "only the process 'cosine' fits"


OBJECTIVE: Table = {
    "diffusion_objective": only("v"),
    "diffusion_objective_options": only({}),
    "diffusion_process": Held("scheduler", _cosine),
    "distribution_shift_options": IN_TRAINING,
    "sampling_distribution_shift_options": only(None),
    "sampling_defaults": WHEN_SAMPLING,
}


def _all_three(value: Any, options: NetworkOptions) -> str:
    # Cross-attention has no positions and no mask here, so the order of its tokens does not matter.
    every = [TEXT, START, TOTAL]
    return "" if sorted(value or []) == sorted(every) else f"only {shown(every)}, in any order, fits"


WIRING: Table = {
    "cross_attention_cond_ids": Held("transformer.cross_attention_dim", _all_three),
    "global_cond_ids": only([START, TOTAL]),
    "prepend_cond_ids": only([]),
    "input_concat_ids": only([]),
    "local_add_cond_ids": only([]),
    "modular_local_cond_configs": only([]),
    "mask_padding_attention": only(False),
    "use_effective_length_for_schedule": only(False),
}
CONDITIONING: Table = {
    "cond_dim": Held("projection_model.conditioning_dim"),
    "configs": Held("projection_model"),
    "default_keys": Unused("maps metadata keys only"),
    "pre_encoded_keys": only([]),
}
