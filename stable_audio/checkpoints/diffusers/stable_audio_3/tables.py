"""The tables of `arguments` for the layout of Stable Audio 3."""

from __future__ import annotations

from typing import Any

from stable_audio.checkpoints.diffusers import tables as first
from stable_audio.checkpoints.diffusers.arguments import (
    Held,
    Nested,
    NetworkOptions,
    Table,
    Unused,
    only,
    shown,
)
from stable_audio.checkpoints.diffusers.tables import (
    AT_START,
    IN_TRAINING,
    MEMORY,
    PART,
    PRECISION,
    WHEN_SAMPLING,
)
from stable_audio.nn.attention import AttentionOptions
from stable_audio.nn.feedforward import FeedForwardOptions
from stable_audio.nn.norms import NormOptions

TEXT, TOTAL = "prompt", "seconds_total"
"""Ids of the conditioners that the layout has."""

LOCAL = ["inpaint_mask", "inpaint_masked_input"]
WITHOUT_PADDING = Unused("the layout's clips have no padding: all frames are asked for")


def _eps(value: Any, options: NetworkOptions) -> str:
    # diffusers' norms add 1e-6, also where its conversion of the published weights replaces 1e-5.
    return "" if value in (1e-5, 1e-6) else "only 1e-05 or 1e-06 fits"


ATTENTION: Table = {
    "qk_norm": only("rms"),
    "qk_norm_eps": only(1e-6),
    "differential": Held("transformer.use_differential_attention"),
    "feat_scale": only(False),
    "padding": WITHOUT_PADDING,
    "causal": only(None, False),
    "zero_init_output": AT_START,
    "backend": MEMORY,
}
FEED_FORWARD: Table = {**first.FEED_FORWARD, "mult": Held("transformer.ff_mult")}
NORM: Table = {"bias": only(False), "fix_scale": Held("transformer"), "force_fp32": PRECISION}
NORM = {**NORM, "eps": Held("transformer", _eps)}


def _local(value: Any, options: NetworkOptions) -> str:
    channels = options["io_channels"] + 1
    return "" if value in (0, channels) else f"only 0 or {channels}, io_channels and the mask, fits"


DIT: Table = {
    **first.DIT,
    "io_channels": Held("transformer.io_channels"),
    "embed_dim": Held("transformer.embed_dim"),
    "depth": Held("transformer.depth"),
    "num_heads": Held("transformer.num_heads", first.head_width),
    "cond_token_dim": Held("transformer.cond_token_dim", first.above_zero),
    "project_cond_tokens": only(True),
    "global_cond_dim": Held("transformer.global_cond_dim", first.above_zero),
    "local_add_cond_dim": Held("transformer.local_add_cond_dim", _local),
    "global_cond_type": only("adaLN"),
    "timestep_features_type": only("expo"),
    "timestep_features_dim": Held("transformer.timestep_features_dim"),
    "num_memory_tokens": Held("transformer.num_memory_tokens"),
    "final_cross_attn_ix": Held("transformer.depth", first.in_every_layer),
    "attn_kwargs": Nested(AttentionOptions, ATTENTION),
    "ff_kwargs": Nested(FeedForwardOptions, FEED_FORWARD),
    "norm_kwargs": Nested(NormOptions, NORM),
    "norm_type": only("rms_norm"),
}


def _length(value: Any, options: NetworkOptions) -> str:
    return "" if value <= 256 else "only up to 256 tokens fit"


T5GEMMA: Table = {
    "output_dim": Held("transformer.cond_token_dim"),
    "model_name": Held("text_encoder"),
    "model_path": Held("text_encoder"),
    "repo_id": Held("text_encoder"),
    "subfolder": Held("text_encoder"),
    "max_length": Held("tokenizer.model_max_length", _length),
    "enable_grad": Held("text_encoder"),
    "project_out": only(False),
    "padding_mode": only("learned", "zero"),
    "encoder_dtype": PRECISION,
}
NUMBER: Table = {
    "output_dim": Held("duration_embedder.output_dim"),
    "min_val": Held("duration_embedder.min_val"),
    "max_val": Held("duration_embedder.max_val"),
    "fourier_features_type": only("expo"),
}


def _symmetric(value: Any, options: NetworkOptions) -> str:
    fits = value is not None and value[0] == value[1]
    return "" if fits else "only a window with equal sides, such as [1, 1], fits"


STAGES: Table = {
    "channels": Held("vae.encoder_channels"),
    "c_mults": Held("vae.encoder_c_mults"),
    "strides": Held("vae.encoder_strides"),
    "transformer_depths": Held("vae.encoder_transformer_depths"),
    "latent_dim": Held("vae.latent_dim"),
    "sliding_window": Held("vae.sliding_window", _symmetric),
    "chunk_size": Unused("with sliding_window"),
    "chunk_midpoint_shift": Unused("with sliding_window"),
    "checkpointing": MEMORY,
    "conformer": only(False),
    "layer_scale": only(False),
    "differential": Held("vae.use_differential_attention"),
    "variable_stride": only(True),
    "feat_scale": only(False),
    "mask_noise": IN_TRAINING,
    "ff_mult": Held("vae.ff_mult"),
    "mapping_bias": only(True),
    "cross_attn": only(False),
    "dyt": only(True),
    "conv_mapping": only(False),
    "freeze_backbone": IN_TRAINING,
    "dim_heads": Held("vae.dim_heads"),
}
ENCODER: Table = {"in_channels": Held("vae.patch_size"), **STAGES}
DECODER: Table = {
    "out_channels": Held("vae.patch_size"),
    "sinusoidal_blocks": Held("vae.decoder_sinusoidal_blocks"),
    **STAGES,
}
SOFTNORM: Table = {
    "dim": Held("vae.latent_dim"),
    "noise_augment_dim": only(0),
    "noise_regularize": Unused("adds a thousandth of noise before decoding, which the layout leaves out"),
    "auto_scale": Held("vae"),
    "freeze": IN_TRAINING,
}
PATCHED: Table = {
    "channels": Held("vae.audio_channels"),
    "patch_size": Held("vae.patch_size"),
    "oversampling": only(1),
    "enable_grad": IN_TRAINING,
}
PATCHED_SECTION: Table = {
    **PART,
    "scale": only(1.0),
    "model_half": PRECISION,
    "iterate_batch": MEMORY,
    "chunked": MEMORY,
    "enable_grad": IN_TRAINING,
}
AUTOENCODER: Table = {**first.AUTOENCODER, "pretransform": Held("vae.patch_size")}
OBJECTIVE: Table = {
    "diffusion_objective": only("rectified_flow", "rf_denoiser"),
    "diffusion_objective_options": only({}),
    "diffusion_process": only(None),
    "distribution_shift_options": IN_TRAINING,
    "sampling_distribution_shift_options": only(None),
    "sampling_defaults": WHEN_SAMPLING,
}


def _both(value: Any, options: NetworkOptions) -> str:
    # Cross-attention has no positions and no mask here, so the order of its tokens does not matter.
    both = [TEXT, TOTAL]
    return "" if sorted(value or []) == sorted(both) else f"only {shown(both)}, in any order, fits"


WIRING: Table = {
    **first.WIRING,
    "cross_attention_cond_ids": Held("transformer.cond_token_dim", _both),
    "global_cond_ids": only([TOTAL]),
    "local_add_cond_ids": only(LOCAL, []),
    "mask_padding_attention": WITHOUT_PADDING,
    "use_effective_length_for_schedule": Unused("the schedule of sampling depends on no length"),
}
CONDITIONING: Table = {**first.CONDITIONING, "cond_dim": Held("duration_embedder.output_dim")}
