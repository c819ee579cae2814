"""Names of weights in our layout and in that of stable-audio-tools, and how to rename them.

Ours: `backbone.*`, `conditioner.conditioners.<id>.*`, `pretransform.*`. stable-audio-tools keeps the backbone
in one or two wrappers: `model.model.*` (or `model.*` for an unconditional DAU1d); everything else has the
same names. An autoencoder alone has no prefix; as a pretransform it stands below `pretransform.model.`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor

from stable_audio.conditioning.pretrained.laion import in_model

OURS = "backbone."
SAT_BACKBONES = ("model.model.", "model.")
PRETRANSFORM = "pretransform."
PRETRANSFORM_MODEL = "pretransform.model."

WRAPPERS: dict[str, tuple[str, str, str]] = {
    # training wrapper of stable-audio-tools -> (prefix of the weights, prefix of their average, what the
    # averaged keys are relative to)
    "diffusion": ("diffusion.", "diffusion_ema.ema_model.", "model."),
    "autoencoder": ("autoencoder.", "autoencoder_ema.ema_model.", ""),
    "diffae": ("diffae.", "diffae_ema.ema_model.", ""),
}

PARALLEL_PREFIXES = ("module.", "_orig_mod.")
"""Prefixes that torch's data-parallel wrapper and its compiler add to every key."""

AUTOENCODER_PARTS = ("encoder.", "decoder.", "bottleneck.", "quantizer.")
DIFFUSION_DECODER = "diffusion.model."
"""The backbone of a diffusion autoencoder; also how a wrapped diffusion model begins."""

BACKBONES = (OURS, SAT_BACKBONES[0], DIFFUSION_DECODER)
"""Prefixes that no autoencoder has."""


def is_diffusion_autoencoder(keys: Collection[str], config: Mapping[str, object] | None = None) -> bool:
    """Whether the weights are those of an unwrapped diffusion autoencoder, by the config or by other keys."""
    if not starts(keys, DIFFUSION_DECODER):
        return False
    if config is not None and "model_type" in config:
        return config["model_type"] == "diffusion_autoencoder"
    return starts(keys, *AUTOENCODER_PARTS, PRETRANSFORM)


_ADAPTER = re.compile(r"(^|[._])(lora|dora|loha|lokr)_")


def is_adapter(key: str) -> bool:
    """Whether a weight belongs to a low-rank adapter, by any of the usual names."""
    return _ADAPTER.search(key) is not None


def strip(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries below `prefix`, without it."""
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def starts(keys: Iterable[str], *prefixes: str) -> bool:
    """Whether any key starts with any of `prefixes`."""
    return any(k.startswith(prefixes) for k in keys)


def our_names(key: str) -> list[str]:
    """Possible names in our layout for `key` of a stable-audio-tools file, likeliest first."""
    names = [OURS + key[len(p) :] for p in SAT_BACKBONES if key.startswith(p)]
    return [key, *names] if not names else [*names, key]


def to_ours(tensors: Mapping[str, Tensor], model_keys: Collection[str]) -> dict[str, Tensor]:
    """Rename to our layout; of several possible names, the one in `model_keys` is taken."""
    model_keys = set(model_keys)
    renamed: dict[str, Tensor] = {}
    for key, value in in_model(tensors).items():
        names = our_names(key)
        renamed[next((n for n in names if n in model_keys), names[0])] = value
    return renamed


def as_in(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` with the names that `state` has today.

    The gain of RMS norms of queries and keys was once called `weight`. Parameters without elements hold
    nothing, so that a file may lack them or have more of them.
    """
    renamed = {}
    for key, value in tensors.items():
        gain = key.removesuffix(".weight") + ".gamma"
        present = gain if key not in state and key.endswith("_norm.weight") and gain in state else key
        if value.numel() or present in state:
            renamed[present] = value
    return {**{k: torch.empty(v.shape, dtype=v.dtype) for k, v in state.items() if not v.numel()}, **renamed}


def to_pretransform(tensors: Mapping[str, Tensor], model_keys: Collection[str]) -> dict[str, Tensor]:
    """Rename an autoencoder's weights, with or without prefixes, to keys of our pretransform.

    Args:
        tensors: weights by their key in the file.
        model_keys: keys of the pretransform itself, such as `model.encoder.layers.0.bias`.
    """
    model_keys = set(model_keys)
    renamed: dict[str, Tensor] = {}
    for key, value in tensors.items():
        bare = key.removeprefix(PRETRANSFORM)
        # The first name is that in an autoencoder with a pretransform of its own.
        names = ["model." + key, bare, "model." + bare, bare.removeprefix("model.")]
        renamed[next((n for n in names if n in model_keys), bare)] = value
    return renamed


def sat_backbone_prefix(config: Mapping[str, object]) -> str:
    """The prefix that stable-audio-tools gives the backbone of a model with this config."""
    model = config.get("model")
    unconditional = config.get("model_type") == "diffusion_uncond"
    backbone = model.get("diffusion", model) if isinstance(model, Mapping) else {}
    bare = unconditional and backbone.get("type") == "DAU1d"
    return "model." if bare else "model.model."


def to_sat(tensors: Mapping[str, Tensor], config: Mapping[str, object]) -> dict[str, Tensor]:
    """Rename from our layout to the unwrapped one of stable-audio-tools."""
    prefix = sat_backbone_prefix(config)
    return {prefix + k[len(OURS) :] if k.startswith(OURS) else k: v for k, v in tensors.items()}
