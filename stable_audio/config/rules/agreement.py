"""Disagreements between parts of an autoencoder -> the keys to change, and their values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stable_audio.backbones import BACKBONES
from stable_audio.config.reporting.problems import Loc, Problem, json_path
from stable_audio.config.schemas.leaf import leaf_model
from stable_audio.pretransforms import BOTTLENECKS, DECODERS, ENCODERS
from stable_audio.pretransforms.agreement import Disagreement, PartsDisagreeError
from stable_audio.wording import excerpt

RATES = ("strides", "ratios", "rates")
"""Names of the list whose product is the downsampling of a coder."""

KEYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "encoder downsampling": ("encoder", RATES),
    "decoder upsampling": ("decoder", RATES),
    "encoder input channels": ("encoder", ("in_channels", "channels")),
    "decoder output channels": ("decoder", ("out_channels", "channels")),
    "encoder output channels": ("encoder", ("latent_dim", "dimension")),
    "decoder input channels": ("decoder", ("latent_dim", "dimension")),
    "bottleneck channels": ("bottleneck", ("dim", "input_dim")),
    "backbone channels": ("diffusion", ("io_channels", "in_channels")),
    "input_concat channels of the backbone": ("diffusion", ("input_concat_dim", "cond_dim")),
}
"""Measure -> the section of `model`, and the names that its key may have there."""

AUDIO_CHANNELS: dict[str, str] = {
    "audio channels in": "in_channels",
    "audio channels out": "out_channels",
}
"""Measure of an autoencoder with a pretransform -> the key of `model` that says it, if not io_channels."""

_CLASSES: dict[str, Mapping[str, Any]] = {
    "encoder": ENCODERS,
    "decoder": DECODERS,
    "bottleneck": BOTTLENECKS,
    "diffusion": BACKBONES,
}


def disagreement_problems(error: PartsDisagreeError, data: Any, loc: Loc) -> list[Problem]:
    """What to change in the file, one problem per key.

    Args:
        data: the section that was built.
        loc: location of the section in the file.
    """
    for place, model in _autoencoders(data, ()):
        if all(_measures_of(model, d) for d in error.disagreements):
            return list(dict.fromkeys(_problems(error, model, (*loc, *place))))
    return [Problem(json_path(loc), str(error))]


def _autoencoders(value: Any, loc: Loc) -> Iterator[tuple[Loc, dict[str, Any]]]:
    if not isinstance(value, dict):
        return
    for key, part in value.items():
        yield from _autoencoders(part, (*loc, key))
    if {"latent_dim", "downsampling_ratio"} <= set(value):
        yield loc, value


def _measures_of(model: dict[str, Any], wrong: Disagreement) -> bool:
    """Whether the section can be the one that the error is about, since autoencoders may be nested."""
    part, names = KEYS.get(wrong.measure, ("", ()))
    if names is RATES:
        return bool(model["downsampling_ratio"] == wrong.expected)
    section: Any = model.get(part)
    key = _key(part, section, names, wrong.actual)
    return key is None or not _has_config(section) or section["config"].get(key) in (None, wrong.actual)


def _problems(error: PartsDisagreeError, model: dict[str, Any], loc: Loc) -> Iterator[Problem]:
    rates = [d for d in error.disagreements if KEYS.get(d.measure, ("", ()))[1] is RATES]
    agreeing = {d.actual for d in rates} if len(rates) > 1 or "decoder" not in model else set()
    for wrong in error.disagreements:
        if wrong.measure in AUDIO_CHANNELS:
            yield _at_audio_channels(wrong, model, loc)
        elif wrong.measure == "downsampling" or (wrong in rates and len(agreeing) == 1):
            coders = "its parts work" if wrong.measure == "downsampling" else "encoder and decoder work"
            message = (
                f"found {wrong.expected}, but {coders} at {wrong.actual} samples per latent frame; "
                f"set it to {wrong.actual}"
            )
            yield Problem(json_path((*loc, "downsampling_ratio")), message)
        else:
            yield _at_part(wrong, model, loc, error.inner_ratio)


def _at_audio_channels(wrong: Disagreement, model: dict[str, Any], loc: Loc) -> Problem:
    key = AUDIO_CHANNELS[wrong.measure]
    place = json_path((*loc, key if model.get(key) is not None else "io_channels"))
    message = f"found {wrong.actual}, but its pretransform is for {wrong.expected} channels"
    return Problem(place, f"{message} of audio; set it to {wrong.expected}")


def _at_part(wrong: Disagreement, model: dict[str, Any], loc: Loc, inner_ratio: int) -> Problem:
    part, names = KEYS.get(wrong.measure, ("", ()))
    section: Any = model.get(part)
    key = _key(part, section, names, wrong.actual)
    if key is None:
        message = f"{wrong.measure} are {wrong.actual}, but the other parts need {wrong.expected}"
        return Problem(json_path(loc), message)
    place = json_path((*loc, part, "config", key))
    configured: Any = section["config"].get(key) if _has_config(section) else None
    if names is not RATES:
        as_counted = configured is None or configured == wrong.actual or not wrong.actual
        value = wrong.expected if as_counted else configured * wrong.expected // wrong.actual
        state = "left out" if configured is None else f"found {excerpt(configured)}"
        mismatch = (
            f"{state}, which makes {wrong.actual} {wrong.measure}; the other parts need {wrong.expected}"
        )
        return Problem(place, f"{mismatch}: set it to {value}")
    return Problem(place, _rates_message(wrong, configured, inner_ratio))


def _rates_message(wrong: Disagreement, configured: Any, inner_ratio: int) -> str:
    state = "left out" if configured is None else f"found {excerpt(configured)}"
    inner = f" (its pretransform's {inner_ratio} included)" if inner_ratio > 1 else ""
    message = (
        f"{state}, which makes {wrong.actual} samples per latent frame{inner}, but downsampling_ratio is"
    )
    message += f" {wrong.expected}; "
    if wrong.expected % inner_ratio:
        return message + f"set downsampling_ratio to {wrong.actual}"
    return message + f"give factors whose product is {wrong.expected // inner_ratio}"


def _key(part: str, section: Any, names: tuple[str, ...], number: int) -> str | None:
    """The one of `names` that the component reads; if it reads several, the one whose value is `number`."""
    if not isinstance(section, dict):
        return None
    cls = _CLASSES.get(part, {}).get(section.get("type", ""))
    if cls is None:
        return None
    config: Any = section.get("config") if _has_config(section) else {}
    keys = [n for n in names if n in leaf_model(cls).model_fields]
    holding = [n for n in keys if config.get(n) == number]
    return next(iter([*holding, *keys]), None)


def _has_config(section: Any) -> bool:
    return isinstance(section, dict) and isinstance(section.get("config"), dict)
