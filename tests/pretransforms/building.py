"""Builds autoencoders and pretransforms straight from the registries, without the configuration layer."""

from __future__ import annotations

from typing import Any

from stable_audio.pretransforms import (
    BOTTLENECKS,
    DECODERS,
    ENCODERS,
    PRETRANSFORMS,
    Autoencoder,
    AutoencoderPretransform,
    Pretransform,
)


def _part(registry: dict[str, Any], spec: dict[str, Any]) -> Any:
    return registry[spec["type"]](**spec.get("config", {}))


def build_autoencoder(model: dict[str, Any], sample_rate: int | None = None) -> Autoencoder:
    decoder = dict(model["decoder"])
    keys = ("latent_dim", "downsampling_ratio", "io_channels", "in_channels", "out_channels")
    return Autoencoder(
        encoder=_part(ENCODERS, model["encoder"]),
        decoder=_part(DECODERS, decoder),
        bottleneck=_part(BOTTLENECKS, model["bottleneck"]) if "bottleneck" in model else None,
        pretransform=build_pretransform(model["pretransform"]) if "pretransform" in model else None,
        soft_clip=decoder.get("soft_clip", False),
        sample_rate=sample_rate,
        **{k: model[k] for k in keys if k in model},
    )


def build_pretransform(spec: dict[str, Any]) -> Pretransform:
    if spec["type"] == "autoencoder":
        siblings = {k: v for k, v in spec.items() if k not in ("type", "config")}
        return AutoencoderPretransform(model=build_autoencoder(spec["config"]), **siblings)
    return PRETRANSFORMS[spec["type"]](**spec.get("config", {}))
