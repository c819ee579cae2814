"""`diffusion`: the training and the demos of diffusion models, from the `training` section."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from stable_audio.checkpoints import resolve
from stable_audio.conditioning.inpainting import INPAINT_IDS
from stable_audio.config import ModelConfig
from stable_audio.config.schemas.leaf import arguments
from stable_audio.config.sections.sampling import settings_from
from stable_audio.config.sections.training import TrainingKeys
from stable_audio.diffusion.losses import LOSSES, MAIN, LossSum, MSELoss
from stable_audio.diffusion.step_options import StepOptions
from stable_audio.diffusion.timesteps import TIMESTEP_SAMPLERS
from stable_audio.factory.components import create
from stable_audio.model import DiffusionModel
from stable_audio.nn.terms import Term
from stable_audio.options import from_keywords, keywords_of
from stable_audio.training.demo import DemoRenderer
from stable_audio.training.diffusion.demos import ClipDemos, DiffusionDemos
from stable_audio.training.diffusion.inpainting import InpaintingMasks
from stable_audio.training.diffusion.module import DiffusionTraining
from stable_audio.training.diffusion.timed import optimizer_configs
from stable_audio.training.methods.base import Method
from stable_audio.training.teacher import build_teacher


def diffusion_method(cls: type[DiffusionTraining]) -> Method:
    """The method of a class that extends `DiffusionTraining`; the keywords that its constructor adds are
    those of `training.method_options`."""
    return Method(partial(build_diffusion, cls=cls), build_diffusion_demos, options=cls)


def build_diffusion(
    config: ModelConfig,
    model: DiffusionModel,
    run: Mapping[str, Any],
    *,
    cls: type[DiffusionTraining] = DiffusionTraining,
) -> DiffusionTraining:
    """`diffusion_cond`, `diffusion_cond_inpaint` and `diffusion_uncond`.

    Args:
        cls: the class of the module, for methods that extend this one.
    """
    section: TrainingKeys = config.training
    optimizer, scheduler = optimizer_configs(section)
    ema = section.ema.model_dump()
    step = {key: getattr(section, key) for key in keywords_of(StepOptions) if hasattr(section, key)}
    return cls(
        model,
        optimizer=optimizer,
        scheduler=scheduler,
        losses=build_losses(section),
        timestep_sampler=TIMESTEP_SAMPLERS[section.timestep_sampler](**section.timestep_sampler_options),
        p_one_shot=section.p_one_shot,
        options=from_keywords(StepOptions, step),
        inpainting=build_inpainting(section, model),
        use_ema=section.use_ema,
        # An adapter is averaged as a whole.
        ema_conditioner=ema.pop("include_conditioner") or section.lora_config is not None,
        ema_options=ema,
        teacher=build_teacher(section),
        **run,
    )


def build_losses(section: TrainingKeys) -> LossSum:
    """The main term first, labelled by its type; the others by their names."""
    terms = {k: Term(k, create(v, LOSSES), v.weight) for k, v in section.loss_configs.items()}
    main_section = section.loss_configs.get(MAIN)
    main = terms.pop(MAIN, None)
    first = (
        Term("mse", MSELoss())
        if main is None or main_section is None
        else Term(main_section.type, main.loss, main.weight)
    )
    return LossSum([first, *terms.values()])


def build_inpainting(section: TrainingKeys, model: DiffusionModel) -> InpaintingMasks | None:
    """Masks for a model with inpainting inputs, by default those of MaskOptions; else None."""
    wired = any(i in INPAINT_IDS for ids in model.wiring.ids.values() for i in ids)
    inpainting = getattr(section, "inpainting", None)
    if not wired:
        return None
    options = arguments(inpainting.mask_kwargs) if inpainting is not None else {}
    return InpaintingMasks(mask_padding=model.mask_padding_attention, **options)


def _demo_masks(config: ModelConfig) -> InpaintingMasks:
    """Masks of demos, with the options of training."""
    section = getattr(config.training, "inpainting", None)
    return InpaintingMasks(**(arguments(section.mask_kwargs) if section is not None else {}))


def build_diffusion_demos(config: ModelConfig) -> tuple[DemoRenderer, int] | None:
    """(renderer, steps between demos) for diffusion models; None if the config has no demos."""
    section = config.training.demo
    kinds = getattr(section, "inpaint_kinds", [])
    if section is None or (section.count == 0 and not kinds):
        return None
    from_batch = getattr(section, "demo_cond_from_batch", False)
    prompts = list(getattr(section, "demo_cond", []))[: section.count]
    renderer = DiffusionDemos(
        [] if from_batch else prompts or [{} for _ in range(section.count)],
        clips=ClipDemos(
            conditions=section.count if from_batch else 0,
            inpaint_kinds=kinds,
            pre_encoded=config.training.pre_encoded,
            masks=_demo_masks(config),
        ),
        sample_rate=config.sample_rate,
        cfg_scales=getattr(section, "demo_cfg_scales", [1.0]),
        steps=section.demo_steps,
        sampler=section.demo_sampler,
        sampling=settings_from(section.demo_sampling),
        guide=None if section.demo_guide is None else resolve(section.demo_guide),
        seed=section.demo_seed,
    )
    return renderer, section.demo_every
