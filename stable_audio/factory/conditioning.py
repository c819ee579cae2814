"""Sections -> conditioners and their wiring to slots."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from stable_audio.backbones.base import Backbone
from stable_audio.conditioning import CONDITIONERS, Conditioner, MultiConditioner, SlotWiring
from stable_audio.conditioning.pretrained.conditioner import PretrainedConditioner
from stable_audio.config.schemas.leaf import arguments
from stable_audio.config.sections.diffusion import (
    SLOT_KEYS,
    ConditionerEntry,
    ConditioningSection,
    DiffusionSection,
)
from stable_audio.config.sections.sounds import OF_THE_FACTORY, SoundLeaf
from stable_audio.factory.components import create
from stable_audio.factory.pretransforms import build_pretransform
from stable_audio.pretransforms.base import Pretransform
from stable_audio.types import Slot


def build_conditioning(
    section: ConditioningSection | None,
    *,
    pretransform: Pretransform | None = None,
    optional_ids: Sequence[str] = (),
    networks: AbstractContextManager[Any] | None = None,
) -> MultiConditioner | None:
    """Build all conditioners of a model; None if its file has no `conditioning`.

    Args:
        section: `conditioning` of the model file.
        pretransform: the model's pretransform, which conditioners may share.
        optional_ids: as for `MultiConditioner`.
        networks: context in which pretrained encoders that train are built, since checkpoints hold them.
    """
    if section is None:
        return None
    conditioners = {}
    for entry in section.configs:
        with networks if networks is not None and _trains_pretrained(entry) else nullcontext():
            conditioners[entry.id] = build_conditioner(
                entry, cond_dim=section.cond_dim, pretransform=pretransform
            )
    return MultiConditioner(
        conditioners,
        default_keys=section.default_keys,
        pre_encoded_keys=section.pre_encoded_keys,
        optional_ids=optional_ids,
    )


def _trains_pretrained(entry: ConditionerEntry) -> bool:
    kind, config = CONDITIONERS[entry.type], entry.config
    trains = getattr(config, "enable_grad", False) or getattr(config, "finetune", False)
    return trains and issubclass(kind, PretrainedConditioner)


def build_conditioner(
    entry: ConditionerEntry, *, cond_dim: int, pretransform: Pretransform | None = None
) -> Conditioner:
    """Build one conditioner.

    Args:
        entry: its section.
        cond_dim: width of the output, unless the conditioner's config has another.
        pretransform: the model's pretransform, which the conditioner may share.

    Raises:
        ValueError: it encodes sounds, and not exactly one pretransform is named.
    """
    if not isinstance(entry.config, SoundLeaf):
        return create(entry, CONDITIONERS, output_dim=cond_dim)
    keywords = {k: v for k, v in arguments(entry.config).items() if k not in OF_THE_FACTORY and v is not None}
    encoder = _sound_encoder(entry.config, pretransform)
    conditioner_class: Any = CONDITIONERS[entry.type]
    return conditioner_class(**{"output_dim": cond_dim, **keywords}, pretransform=encoder)


def _sound_encoder(config: SoundLeaf, pretransform: Pretransform | None) -> Pretransform:
    if config.use_model_pretransform == (config.pretransform_config is not None):
        state = "both" if config.use_model_pretransform else "neither"
        raise ValueError(f"give either use_model_pretransform true or a pretransform_config, found {state}")
    if config.pretransform_config is not None:
        return build_pretransform(config.pretransform_config)
    if config.pretransform_ckpt_path is not None:
        raise ValueError("pretransform_ckpt_path has the weights of a pretransform_config, but none is given")
    if pretransform is None:
        raise ValueError("use_model_pretransform is true, but the model has no pretransform")
    return pretransform


def build_wiring(
    section: DiffusionSection, *, conditioner: MultiConditioner | None, backbone: Backbone
) -> SlotWiring:
    """Wire ids to slots, checked against the slots and widths of the backbone."""
    conditioners = {} if conditioner is None else dict(conditioner.conditioners.items())
    ids = {slot: getattr(section, key) for slot, key in SLOT_KEYS.items()}
    return SlotWiring(
        cross_attn_ids=ids[Slot.CROSS_ATTN],
        global_ids=ids[Slot.GLOBAL],
        prepend_ids=ids[Slot.PREPEND],
        input_concat_ids=ids[Slot.INPUT_CONCAT],
        local_add_ids=ids[Slot.LOCAL_ADD],
        modular_local_dims=backbone.modular_local_dims,
        vector_ids=[key for key, part in conditioners.items() if part.layout == "vector"],
        widths=backbone.slot_widths,
    )
