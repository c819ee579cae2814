"""What must hold between the keys of `training` that are about adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stable_audio.config.reporting.problems import Loc
from stable_audio.config.rules.context import Context, dicts, mapping

OF_ADAPTERS = ("lora_ckpt_path", "base_precision")


def adapters_fit(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Keys about adapters stand together, and nothing else says what is trained or averaged."""
    training = mapping(ctx.get("training", default={}))
    if training.get("lora_config") is None:
        for key in OF_ADAPTERS:
            if training.get(key) is not None:
                message = "has no effect without lora_config; add that, or leave this out"
                yield ("training", key), message
        return
    for index, entry in enumerate(dicts(training.get("transforms"))):
        if entry.get("type") == "adapters":
            message = "lora_config says already which adapter is trained; give one of them"
            yield ("training", "transforms", index), message
    trainable = mapping(training.get("trainable"))
    for key in ("include", "exclude"):
        if trainable.get(key):
            message = f"lora_config says what is trained; give {key} there, or leave this out"
            yield ("training", "trainable", key), message
    if training.get("ema") and training.get("use_ema") is not True:
        message = "an adapter is averaged only if use_ema is true; set it, or leave this out"
        yield ("training", "ema"), message


def dropout_has_features(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Dropout is for types with free input features."""
    section: Mapping[str, Any] = mapping(ctx.get("training", "lora_config", default={}))
    kind = section.get("adapter_type")
    if section.get("dropout") and isinstance(kind, str) and kind.endswith("-xs"):
        yield ("training", "lora_config", "dropout"), f"has no effect on adapters of the type '{kind}'"
