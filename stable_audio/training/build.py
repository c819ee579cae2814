"""`training` section of a model config -> Lightning module, one builder per model type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from stable_audio.config import ModelConfig
from stable_audio.config.sections.training import TrainingKeys
from stable_audio.diffusion.losses import LOSSES, MAIN, LossSum, MSELoss, Term
from stable_audio.diffusion.timesteps import TIMESTEP_SAMPLERS
from stable_audio.factory.components import create
from stable_audio.model import DiffusionModel
from stable_audio.training.autoencoder.build import build_autoencoder_training
from stable_audio.training.autoencoder.diffusion import build_diffusion_autoencoder_training
from stable_audio.training.base import TrainingModule
from stable_audio.training.diffusion import DiffusionTraining
from stable_audio.training.errors import TrainingError
from stable_audio.training.inpainting import InpaintingMasks
from stable_audio.training.timed import optimizer_configs

INPAINT_IDS = ("inpaint_mask", "inpaint_masked_input")


def build_training(
    config: ModelConfig,
    model: nn.Module,
    *,
    seed: int = 0,
    batch_size: int = 1,
    gradient_clip_val: float = 0.0,
) -> TrainingModule:
    """The module that trains `model` as its config says.

    Args:
        batch_size: items per process. gradient_clip_val: 0 = no clipping.

    Raises:
        TrainingError: the config has no `training` section, or its model type cannot be trained.
    """
    if config.training is None:
        raise TrainingError("$.training is missing: a model needs it to be trained")
    if config.untrainable:
        raise TrainingError("; ".join(map(str, config.untrainable)))
    if config.model_type not in BUILDERS:
        raise TrainingError(
            f"$.model_type '{config.model_type}' cannot be trained; allowed: {', '.join(BUILDERS)}"
        )
    run = {"seed": seed, "batch_size": batch_size, "gradient_clip_val": gradient_clip_val}
    return BUILDERS[config.model_type](config, model, run)


def build_diffusion(config: ModelConfig, model: DiffusionModel, run: Mapping[str, Any]) -> DiffusionTraining:
    """`diffusion_cond`, `diffusion_cond_inpaint` and `diffusion_uncond`."""
    section: TrainingKeys = config.training
    optimizer, scheduler = optimizer_configs(section)
    ema = section.ema.model_dump()
    return DiffusionTraining(
        model,
        optimizer=optimizer,
        scheduler=scheduler,
        losses=build_losses(section),
        timestep_sampler=TIMESTEP_SAMPLERS[section.timestep_sampler](**section.timestep_sampler_options),
        p_one_shot=section.p_one_shot,
        cfg_dropout_prob=getattr(section, "cfg_dropout_prob", 0.0),
        mask_padding=section.mask_padding,
        mask_padding_dropout=section.mask_padding_dropout,
        pre_encoded=section.pre_encoded,
        inpainting=build_inpainting(section, model),
        use_ema=section.use_ema,
        ema_conditioner=ema.pop("include_conditioner"),
        ema_options=ema,
        log_loss_info=section.log_loss_info,
        gradient_checkpointing=section.gradient_checkpointing,
        **run,
    )


def build_losses(section: TrainingKeys) -> LossSum:
    """The main term first, labelled by its type; the others by their names."""
    terms = {k: Term(k, create(v, LOSSES), v.weight) for k, v in section.loss_configs.items()}
    named = section.loss_configs.get(MAIN)
    main = terms.pop(MAIN, None)
    first = (
        Term("mse", MSELoss()) if main is None or named is None else Term(named.type, main.loss, main.weight)
    )
    return LossSum([first, *terms.values()])


def build_inpainting(section: TrainingKeys, model: DiffusionModel) -> InpaintingMasks | None:
    """Masks for a model wired to them, with the defaults when the section says nothing."""
    wired = any(i in INPAINT_IDS for ids in model.wiring.ids.values() for i in ids)
    given = getattr(section, "inpainting", None)
    if not wired:
        return None
    return InpaintingMasks(**(given.mask_kwargs.model_dump() if given is not None else {}))


BUILDERS: dict[str, Callable[..., TrainingModule]] = {
    "diffusion_cond": build_diffusion,
    "diffusion_cond_inpaint": build_diffusion,
    "diffusion_uncond": build_diffusion,
    "autoencoder": build_autoencoder_training,
    "diffusion_autoencoder": build_diffusion_autoencoder_training,
}
