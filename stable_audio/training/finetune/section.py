"""The `training` section of a fine-tune: as the model was trained, where that is known, and much shorter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stable_audio.nn.checkpointing import Recomputation
from stable_audio.training.finetune.sizing import Size

KEPT = (
    "cfg_dropout_prob",
    "timestep_sampler",
    "timestep_sampler_options",
    "p_one_shot",
    "loss_configs",
    "inpainting",
    "mask_padding",
    "mask_padding_dropout",
    "mask_loss_weight",
    "loss_normalization",
    "loss_norm_eps",
    "silence_extension_scale_seconds",
    "ot_coupling",
    "mask_padding_attention",
    "use_effective_length_for_schedule",
)
"""Keys of the training of the model itself that decide what a step of training means."""

STABLE_AUDIO_3: Mapping[str, Any] = {
    "cfg_dropout_prob": 0.1,
    "timestep_sampler": "trunc_logit_normal",
    "mask_loss_weight": 1.0,
    "silence_extension_scale_seconds": 4.0,
    "ot_coupling": True,
}
"""Models that hide padding from attention: the values with which stable-audio-3 trains its adapters."""

INPAINTING: Mapping[str, Any] = {"mask_kwargs": {"mask_type_probabilities": [0.1, 0.8, 0.1]}}
"""Masks with which stable-audio-3 trains its adapters."""

FLOW: Mapping[str, Any] = {"cfg_dropout_prob": 0.1, "timestep_sampler": "trunc_logit_normal"}
"""Other rectified flows: as Stable Audio Open Small."""

V: Mapping[str, Any] = {"cfg_dropout_prob": 0.1, "timestep_sampler": "uniform"}
"""All others: as Stable Audio Open 1.0."""


def step_keys(config: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """What a step of training does, and where that is known from.

    Args:
        config: the model file, as JSON values.
    """
    stored = config.get("training")
    if isinstance(stored, Mapping) and not stored.get("method"):
        return {key: stored[key] for key in KEPT if key in stored}, "the training section of the model"
    diffusion = config["model"].get("diffusion") or {}
    if diffusion.get("mask_padding_attention"):
        keys, source = dict(STABLE_AUDIO_3), "Stable Audio 3, whose models hide padding from attention"
    elif str(diffusion.get("diffusion_objective", "v")).startswith(("rectified_flow", "rf")):
        keys, source = dict(FLOW), "Stable Audio Open Small, a rectified flow"
    else:
        keys, source = dict(V), "Stable Audio Open 1.0"
    if config["model_type"] == "diffusion_cond_inpaint":
        keys["inpainting"] = dict(INPAINTING)
    if config["model_type"] == "diffusion_uncond":
        keys.pop("cfg_dropout_prob")
    return keys, source


def training_section(
    config: Mapping[str, Any],
    size: Size,
    *,
    optimizer: str,
    micro_batch: int,
    adapter: Mapping[str, Any] | None,
    gradient_checkpointing: Recomputation,
    base_precision: str | None,
    text_cache: str | None,
    demo: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The section, as JSON values.

    Args:
        optimizer: name of the optimizer, see `sizing`.
        micro_batch: clips that are in memory together.
        adapter: the content of `lora_config`; None trains the model itself.
        gradient_checkpointing: what the backward pass computes again.
        base_precision: what the model under an adapter is held in; None: as it is.
        text_cache: folder for the features of texts; None where no frozen encoder reads them.
        demo: the content of `demo`, or None.
    """
    keys, _ = step_keys(config)
    section: dict[str, Any] = {
        **keys,
        "pre_encoded": True,
        "use_ema": False,
        "log_loss_info": True,
        "batch_size": micro_batch,
        "max_steps": size.steps,
        "gradient_clip_val": 1.0,
        "gradient_checkpointing": gradient_checkpointing,
        "optimizer_configs": {"diffusion": optimiser(size, optimizer)},
    }
    if text_cache is not None:
        section["cache_text"] = text_cache
    if adapter is not None:
        section["lora_config"] = dict(adapter)
        if base_precision is not None:
            section["base_precision"] = base_precision
    if demo is not None:
        section["demo"] = dict(demo)
    return section


def optimiser(size: Size, name: str) -> dict[str, Any]:
    """AdamW of a kind with the values of stable-audio-3's script; one cycle of the rate ends near zero."""
    return {
        "optimizer": {
            "type": name,
            "config": {"lr": size.learning_rate, "betas": [0.9, 0.95], "weight_decay": 0.01},
        },
        "scheduler": {
            "type": "OneCycleLR",
            "config": {
                "max_lr": size.learning_rate,
                "pct_start": round(size.warm_up / size.steps, 6),
                "cycle_momentum": False,
            },
        },
    }


def demo_section(
    config: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], *, steps: int
) -> dict[str, Any]:
    """Demos four times in a run, of some of its captions, sampled as the model's own demos are.

    Args:
        examples: conditioning of each demo.
        steps: of the run.
    """
    stored = (config.get("training") or {}).get("demo") or {}
    kept = {key: stored[key] for key in ("demo_steps", "demo_cfg_scales", "demo_sampler") if key in stored}
    conditions = [] if config["model_type"] == "diffusion_uncond" else [dict(e) for e in examples]
    every = {"demo_every": max(1, -(-steps // 4))}
    if not conditions:
        kept.pop("demo_cfg_scales", None)
        return {**every, "demo_steps": 50, **kept, "num_demos": 4}
    return {**every, "demo_steps": 50, **kept, "demo_cond": conditions}
