"""What must hold between the `training` section of an autoencoder and its model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stable_audio.config.reporting.problems import Loc
from stable_audio.config.rules.context import Context, mapping
from stable_audio.pretransforms import Autoencoder
from stable_audio.wording import excerpt, names, nearest

LOSSES: Loc = ("training", "loss_configs")
COMPARING = ("spectral", "mrmel", "time", "pretransform", "hubert", "discriminator")
"""Sections of `loss_configs` that compare audio with its reconstruction."""

POINTWISE = ("time", "pretransform")
"""Those whose weights are 0 unless given."""

WINDOWS: dict[Loc, int] = {
    (*LOSSES, "discriminator", "config", "n_ffts"): 1,
    (*LOSSES, "discriminator", "config", "fft_sizes"): 2,
    (*LOSSES, "spectral", "config", "fft_sizes"): 2,
    (*LOSSES, "mrmel", "config", "window_lengths"): 2,
    ("training", "eval_loss_configs", "stft", "fft_sizes"): 2,
    ("training", "eval_loss_configs", "mel", "window_lengths"): 2,
}
"""Lists of window sizes; a clip must have more samples than size / divisor (as many, where that is 1)."""


def _trained(ctx: Context) -> Autoencoder | None:
    """The autoencoder, if the file trains one."""
    trained = isinstance(ctx.data.get("training"), dict) and ctx.data.get("model_type") == "autoencoder"
    return ctx.facts.autoencoder if trained and isinstance(ctx.facts.autoencoder, Autoencoder) else None


def encoder_channels_agree(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """The encoder takes as many channels as are decoded, or their mean with `force_input_mono`."""
    model = _trained(ctx)
    if model is None or model.in_channels == model.out_channels:
        return
    mono = ctx.get("training", "force_input_mono", default=False) is True
    if not (mono and model.out_channels > 1):
        mismatch = f"found {model.in_channels}, but out_channels is {model.out_channels}"
        hint = (
            "; training.force_input_mono encodes the mean of the channels" if model.out_channels > 1 else ""
        )
        yield ("model", "in_channels"), f"{mismatch}: encoder and decoder must have the same channels{hint}"


def discriminator_channels_agree(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """The discriminator has as many channels as the decoded audio."""
    model, loc = _trained(ctx), (*LOSSES, "discriminator", "config", "in_channels")
    channels = ctx.get(*loc)
    if model is not None and isinstance(channels, int) and channels != model.out_channels:
        message = f"found {channels}, but the autoencoder decodes to {model.out_channels} channels"
        yield loc, f"{message}; remove the key, whose default is that of the model"


def bottleneck_has_the_terms(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """`weights` of the bottleneck name only loss terms that it has."""
    model, loc = _trained(ctx), (*LOSSES, "bottleneck", "weights")
    if model is None:
        return
    terms = model.bottleneck.loss_weights if model.bottleneck is not None else {}
    for name in mapping(ctx.get(*loc, default={})):
        if name not in terms:
            choices = f"allowed: {names(list(terms))}" if terms else "it has no loss terms"
            yield (*loc, name), f"unknown term of the bottleneck; {choices}"


def something_is_compared(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """At least one loss compares audio with its reconstruction."""
    losses = ctx.get(*LOSSES)
    if _trained(ctx) is None or not isinstance(losses, dict) or ctx.get("training", "teacher_model_ckpt"):
        return
    if not any(_compares(name, losses[name]) for name in COMPARING if losses.get(name) is not None):
        message = f"nothing compares audio with its reconstruction; give at least one of {names(COMPARING)}"
        yield LOSSES, f"{message}, or remove loss_configs for the default losses"


def _compares(name: str, section: Any) -> bool:
    """Whether the section has a weight other than 0."""
    weights = mapping(mapping(section).get("weights"))
    return any(weights.values()) if weights and name != "discriminator" else name not in POINTWISE


LOSS_TYPES: dict[str, tuple[str, ...]] = {
    "spectral": ("mrstft", "stft", "spectral"),
    "time": ("time", "l1", "l2", "mse"),
    "pretransform": ("pretransform", "l1", "l2", "mse"),
    "bottleneck": ("kl", "mmd", "vae", "bottleneck", "commitment", "quantizer"),
    "mrmel": ("mrmel", "mel"),
    "hubert": ("hubert", "wavlm"),
}
"""Sections of `loss_configs` whose name says which loss they are -> the types that files give them."""


def loss_types_are_spelled(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """A `type` that resembles one of its section is that one."""
    for section, kind, kinds in _loss_types(ctx):
        if (meant := nearest(kind, kinds)) is not None:
            yield (*LOSSES, section, "type"), f"found {excerpt(kind)}; did you mean {meant!r}?"


def loss_types_are_read(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Warns of a `type` that is another loss than that of its section."""
    for section, kind, kinds in _loss_types(ctx):
        if nearest(kind, kinds) is None:
            message = f"found {excerpt(kind)}, which is not read: this section is the loss '{kinds[0]}'"
            yield (*LOSSES, section, "type"), message


def _loss_types(ctx: Context) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(section, its type, the types that it may have) of the sections with another type."""
    for section, kinds in LOSS_TYPES.items():
        kind = ctx.get(*LOSSES, section, "type")
        if _trained(ctx) is not None and isinstance(kind, str) and kind not in kinds:
            yield section, kind, kinds


def pretransform_is_there(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """The loss between values of the pretransform needs an autoencoder with a pretransform."""
    model, loc = _trained(ctx), (*LOSSES, "pretransform")
    if model is not None and ctx.get(*loc) is not None and model.pretransform is None:
        message = "it compares values of the autoencoder's pretransform, but there is none"
        yield loc, f"{message}; use the section 'time', or give model.pretransform"


def windows_fit_the_clips(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """The clips are long enough for the windows of every spectrogram."""
    size = ctx.data.get("sample_size")
    if _trained(ctx) is None or not isinstance(size, int):
        return
    for loc, divisor in WINDOWS.items():
        value = ctx.get(*loc, default=[])
        sizes = [s for s in value if isinstance(s, int)] if isinstance(value, list) else []
        long = [s for s in sizes if (s > size if divisor == 1 else s // divisor >= size)]
        if long:
            yield loc, f"found {long}, too long for clips of sample_size {size}; remove these resolutions"


def warm_up_has_an_end(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Warns of a warm-up that has no effect."""
    losses = ctx.get(*LOSSES)
    adversarial = losses is None or mapping(losses).get("discriminator") is not None
    freezes = ctx.get("training", "encoder_freeze_on_warmup", default=False)
    if _trained(ctx) is None or adversarial or freezes:
        return
    for key in ("warmup_steps", "warmup_mode"):
        if ctx.get("training", key):
            message = "has no effect: loss_configs has no discriminator and no encoder is frozen"
            yield ("training", key), message
