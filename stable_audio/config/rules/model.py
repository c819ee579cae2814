"""What must hold between the keys of `model`: channels and axes of latents."""

from __future__ import annotations

from collections.abc import Iterator

from stable_audio.config.reporting.problems import Loc, json_path
from stable_audio.config.rules.context import Context


def channels_agree(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """io_channels equals the channels of the backbone and of the pretransform."""
    backbone, pretransform = ctx.facts.backbone, ctx.facts.pretransform
    uncond = ctx.data.get("model_type") == "diffusion_uncond"
    channels = ctx.get("model", "io_channels")
    if uncond and channels is None and backbone is not None:
        channels = backbone.io_channels
    if not isinstance(channels, int):
        return
    if backbone is not None and backbone.io_channels != channels:
        message = f"found {channels}, but the backbone has {backbone.io_channels} ({_channels_key(ctx)})"
        yield ("model", "io_channels"), message
    if pretransform is not None and pretransform.encoded_channels != channels:
        yield (
            ("model", "io_channels") if ctx.get("model", "io_channels") else (*ctx.diffusion_loc, "config"),
            f"found {channels} channels, but the pretransform encodes to {pretransform.encoded_channels}: "
            f"set it and {_channels_key(ctx)} to {pretransform.encoded_channels}",
        )


def _channels_key(ctx: Context) -> str:
    """Path of the backbone's own channels."""
    config = (*ctx.diffusion_loc, "config")
    key = next((k for k in ("io_channels", "in_channels") if ctx.get(*config, k) is not None), None)
    return json_path(config if key is None else (*config, key))


def latents_have_the_right_axes(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Two-dimensional latents need a two-dimensional backbone, whose strides divide their rows."""
    backbone, pretransform = ctx.facts.backbone, ctx.facts.pretransform
    if backbone is None or pretransform is None:
        return
    rows, loc = pretransform.latent_height, ("model", "pretransform")
    takes_rows = getattr(backbone, "dims", 1) == 2 and backbone.height is None
    if rows is None and takes_rows:
        message = "the backbone (dims 2, no height) takes latents with rows, but these have none; "
        yield loc, message + "use a spectrogram with layout '2d', or give the backbone a height"
    elif rows is not None and not takes_rows:
        message = f"its latents have {rows} rows, but the backbone takes latents without; use a 'unet' with "
        yield loc, message + "dims 2 and no height, or layout '1d'"
    elif rows is not None and rows % backbone.length_multiple:
        message = f"its latents have {rows} rows, which is not a multiple of {backbone.length_multiple}, "
        yield loc, message + "by which the backbone downsamples them"
    if rows is not None and ctx.is_inpaint:
        yield ("model_type",), "inpainting needs latents without rows; use layout '1d', or diffusion_cond"


def audio_channels_agree(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Warns of audio_channels that differ from the model's."""
    audio_channels, facts = ctx.data.get("audio_channels"), ctx.facts
    if ctx.get("training", "pre_encoded"):
        return
    part = facts.pretransform if ctx.get("model", "pretransform") is not None else facts.backbone
    if facts.autoencoder is not None:
        channels: int | None = facts.autoencoder.audio_channels
    else:
        channels = part.io_channels if part is not None else None
    if isinstance(audio_channels, int) and channels is not None and channels != audio_channels:
        message = f"found {audio_channels}, but the model has {channels} channels, which are used instead"
        yield ("audio_channels",), message
