"""The scale of latents, which is stored and loaded with the weights that it was measured for."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from stable_audio.pretransforms.autoencoder import Autoencoder
from stable_audio.pretransforms.autoencoder_pretransform import AutoencoderPretransform


def stored_scale(config: Mapping[str, Any] | None) -> float | None:
    """The divisor of the latents in the config of an autoencoder or pretransform; None if it has none."""
    model = (config or {}).get("model")
    if not isinstance(model, Mapping):
        return None
    if (config or {}).get("model_type") == "autoencoder":
        return model.get("latent_scale")
    section = model.get("pretransform")
    if not isinstance(section, Mapping):
        return None
    return section.get("scale", (section.get("config") or {}).get("latent_scale"))


def adopt_scale(pretransform: nn.Module | None, config: Mapping[str, Any] | None) -> None:
    """After weights are loaded: use the scale of their config, unless the model's config has one."""
    scale = stored_scale(config)
    if scale is not None and isinstance(pretransform, AutoencoderPretransform):
        pretransform.model.latent_scale = float(scale)


def adopt_model_scale(model: nn.Module, config: Mapping[str, Any] | None) -> None:
    """`adopt_scale` for the pretransform of a whole model; one inside an autoencoder has its own."""
    if not isinstance(model, Autoencoder):
        adopt_scale(getattr(model, "pretransform", None), config)


def with_scale(config: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """`config` with the latent scale of `model`, measured or loaded, for saving with its weights."""
    if isinstance(model, Autoencoder):
        return _with(config, ("model",), model)
    pretransform = getattr(model, "pretransform", None)
    if not isinstance(pretransform, AutoencoderPretransform) or pretransform.scale_is_given:
        return dict(config)
    return _with(config, ("model", "pretransform", "config"), pretransform.model)


def _with(config: Mapping[str, Any], place: tuple[str, ...], autoencoder: Autoencoder) -> dict[str, Any]:
    if autoencoder.latent_scale is None:
        return dict(config)
    copied: dict[str, Any] = copy.deepcopy(dict(config))
    section = copied
    for key in place:
        section = section[key]
    section["latent_scale"] = autoencoder.latent_scale
    return copied
