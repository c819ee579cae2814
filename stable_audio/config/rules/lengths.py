"""The length of training clips: a whole number of steps of the pretransform and the backbone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from stable_audio.config.reporting.problems import Loc, json_path
from stable_audio.config.rules.context import Context
from stable_audio.diffusion_autoencoder import DiffusionAutoencoder


class Step(NamedTuple):
    """The number of samples that sample_size must be a multiple of, and where it comes from."""

    samples: int
    source: str


def rounded_sample_size(ctx: Context) -> tuple[int, str] | None:
    """sample_size rounded down to whole steps, and a sentence about it; None where nothing is to be rounded.

    stable-audio-tools takes `sample_size // downsampling_ratio` latent frames, so its files have any length.
    """
    size, step = _size(ctx), _step(ctx)
    if size is None or step is None or step.samples < 1 or size < step.samples or size % step.samples == 0:
        return None
    below = size // step.samples * step.samples
    return below, f"found {size}, rounded down to {below}, a multiple of {step.source}"


def sample_size_fits(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """sample_size is at least one step of the pretransform and the backbone, which is a length."""
    size, step = _size(ctx), _step(ctx)
    if step is not None and step.samples < 1:
        yield (
            (*ctx.diffusion_loc, "config"),
            f"clips would be cut into {step.source}; give factors of at least 1",
        )
    elif size is not None and step is not None and size < step.samples:
        yield (
            ("sample_size",),
            f"found {size}, which is less than {step.source}; use a multiple of {step.samples}",
        )


def _size(ctx: Context) -> int | None:
    size = ctx.data.get("sample_size")
    return size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None


def _step(ctx: Context) -> Step | None:
    """None where a part that determines it cannot be built."""
    facts = ctx.facts
    if facts.autoencoder is not None:
        ratio, multiple = facts.autoencoder.downsampling_ratio, facts.autoencoder.downsampling_ratio
        source = f"downsampling_ratio {ratio}"
        if isinstance(facts.autoencoder, DiffusionAutoencoder):
            multiple = facts.autoencoder.length_multiple
        if multiple != ratio:
            source = f"{multiple}, which downsampling_ratio {ratio} and the backbone's strides need"
        return Step(multiple, source)
    if facts.backbone is None or (
        ctx.get("model", "pretransform") is not None and facts.pretransform is None
    ):
        return None
    ratio = facts.pretransform.downsampling_ratio if facts.pretransform is not None else 1
    multiple = facts.backbone.length_multiple
    source = f"{ratio * multiple} = {ratio} (samples per latent frame) x {multiple} ({_of_backbone(ctx)})"
    return Step(ratio * multiple, source)


def _of_backbone(ctx: Context) -> str:
    """The keys of the backbone's config that determine its length_multiple, for messages."""
    config = (*ctx.diffusion_loc, "config")
    keys = [k for k in ("factors", "strides", "patch_size") if ctx.get(*config, k) is not None]
    return " ".join(["backbone", *(json_path((*config, k)) for k in keys)])
