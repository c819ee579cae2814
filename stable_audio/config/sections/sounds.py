"""`config` of the conditioners that encode sounds: constructor arguments and the choice of a pretransform."""

from __future__ import annotations

from typing import Any

from pydantic import Field, create_model

from stable_audio.conditioning.sounds import PretransformConditioner, SourceMixConditioner
from stable_audio.config.schemas.leaf import Leaf, leaf_model
from stable_audio.config.sections.pretransform import Pretransform


class SoundLeaf(Leaf):
    """The pretransform of a conditioner: that of the model, or a separate one."""

    use_model_pretransform: bool = Field(default=False, description="encode with the model's pretransform")
    pretransform_config: Pretransform | None = Field(default=None, description="a separate pretransform")
    pretransform_ckpt_path: str | None = Field(
        default=None, description="file, folder or hub id with the weights of pretransform_config"
    )


OF_THE_FACTORY = tuple(SoundLeaf.model_fields)
"""Keys that name the pretransform; the others are arguments of the constructor."""


def sound_leaf(cls: Any) -> type[SoundLeaf]:
    """The model of `config` for a conditioner whose constructor takes a pretransform."""
    derived = leaf_model(cls, provided=("output_dim",), hidden=("pretransform",))
    fields: dict[str, Any] = {n: (f.annotation, f) for n, f in derived.model_fields.items()}
    model = create_model(cls.__name__, __base__=SoundLeaf, __module__=__name__, **fields)
    model.target = cls
    return model


SOUND_CONFIGS: dict[str, type[SoundLeaf]] = {
    "pretransform": sound_leaf(PretransformConditioner),
    "source_mix": sound_leaf(SourceMixConditioner),
}
"""Conditioner type -> model of its `config`."""
