"""Audio that steers a generation: sounds to start from, and sounds of which parts are made anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.audio.extrapolation import extrapolated
from stable_audio.audio.regions import Region, check_regions, kept_mask, spans_of
from stable_audio.audio.resample import resampled_length
from stable_audio.audio.seams import SEAM_SECONDS, with_parts
from stable_audio.conditioning.inpainting import INPAINT_MASK, inpainting_tensors
from stable_audio.diffusion.known import KnownLatents
from stable_audio.inference.generation.coding import EncoderNoise, encode_each, fit_audio, fit_latents
from stable_audio.model import DiffusionModel
from stable_audio.types import ConditionTensors, Metadata

INPAINT_REPEATS = 4
"""How often each step is walked where a model has no input for inpainting."""


class InputLatents(NamedTuple):
    """What `AudioInputs` are for the backbone.

    Attributes:
        init: latents to start from (b c n).
        inpainting: conditioning tensors of a model that reads them.
        known: latents of which parts are kept, for other models.
    """

    init: Tensor | None
    inpainting: ConditionTensors
    known: KnownLatents | None


@dataclass(frozen=True, kw_only=True)
class AudioInputs:
    """Audio that clips start from, or of which inpainting keeps parts.

    Attributes:
        init_audio: (c n) or (b c n): audio to start from, with noise of init_noise_level.
        init_sample_rate: sample rate of init_audio in Hz; None: the model's.
        init_noise_level: noise level at which sampling starts from init_audio, in place of sigma_max.
        inversion_steps: steps in which init_audio is led back to the noise that gives it, so that another
            prompt changes what it says alone; 0: it gets noise of the seed.
        init_conditioning: what init_audio is, for its inversion, one dict or prompt for all clips or one per
            clip; absent keys are taken from the conditioning. None: the conditioning.
        inpaint_audio: (c n) or (b c n) of which parts are generated anew. Models without an input for it are
            led to the other parts by every sampler (see `KnownLatents`).
        inpaint_latents: (c n) or (b c n) latents of the sound, in place of inpaint_audio.
        inpaint_sample_rate: sample rate of inpaint_audio in Hz; None: the model's.
        inpaint_mask: (n,) or (b n) with 1 = keep, 0 = generate, for n equal parts of the clip. Every latent
            frame that overlaps a part to generate is generated, so that the result may differ up to a frame
            beyond it.
        inpaint_seconds: (start, end) in seconds of the parts to generate, in place of inpaint_mask. All else
            of inpaint_audio returns sample for sample.
        inpaint_repeats: how often each step is walked by models without an input for inpainting: more fit
            the parts to what is around them better, in as much more time.
        seam_seconds: greatest length of the cross-fade at the ends of the parts of inpaint_seconds, within
            them; sounds that differ take a quarter of it.
    """

    init_audio: Tensor | None = None
    init_sample_rate: int | None = None
    init_noise_level: float = 1.0
    inpaint_audio: Tensor | None = None
    inpaint_sample_rate: int | None = None
    inpaint_mask: Tensor | None = None
    inpaint_latents: Tensor | None = None
    inpaint_seconds: Sequence[Region] | None = None
    inpaint_repeats: int = INPAINT_REPEATS
    seam_seconds: float = SEAM_SECONDS
    inversion_steps: int = 0
    init_conditioning: Metadata | str | Sequence[Metadata | str] | None = None

    def check(self, model: DiffusionModel) -> None:
        """Raise ValueError if the model cannot use these inputs."""
        if self.init_audio is not None and self.init_noise_level <= 0:
            raise ValueError(f"init_noise_level must be above 0, found {self.init_noise_level}")
        if self.inversion_steps < 0 or (self.inversion_steps and self.init_audio is None):
            raise ValueError("inversion_steps must be at least 0, and need init_audio")
        if self.inpaint_repeats < 1 or self.seam_seconds < 0:
            raise ValueError("inpaint_repeats must be at least 1, and seam_seconds at least 0")
        if self.inpaint_seconds is not None:
            check_regions(self.inpaint_seconds)
            if self.inpaint_mask is not None or self.inpaint_audio is None:
                raise ValueError("inpaint_seconds needs inpaint_audio, and no inpaint_mask besides")
        parts = (self.inpaint_audio, self.inpaint_latents, self.inpaint_mask, self.inpaint_seconds)
        sounds, places = (any(part is not None for part in pair) for pair in (parts[:2], parts[2:]))
        if sounds != places and not inpaints(model):
            raise ValueError(
                "inpainting needs a sound (inpaint_audio or inpaint_latents) and the parts of it to generate "
                "(inpaint_seconds or inpaint_mask); only models of model_type 'diffusion_cond_inpaint' take "
                "one of the two"
            )

    def tensors(
        self,
        model: DiffusionModel,
        noise: EncoderNoise | None,
        *,
        count: int,
        samples: int,
        length: int,
        kept: int | None = None,
        imposed: bool = False,
    ) -> InputLatents:
        """Encode the sounds for a call.

        Args:
            noise: see `encode_each`.
            count: number of clips.
            samples: audio samples of a clip.
            length: audio samples of its latents, to which the audio is cut or padded.
            kept: samples of a clip that are returned; None: all.
            imposed: impose what is kept on samplers of models that have an input for it, too.
        """
        init, inpaint = (
            None if audio is None else encode_each(model, fit_audio(audio, rate, model, length), noise)
            for audio, rate in (
                (self.init_audio, self.init_sample_rate),
                (self.inpaint_audio, self.inpaint_sample_rate),
            )
        )
        init = None if init is None else for_batch(init, count, "init_audio")
        shape, ratio = model.latent_shape_of(length), model.downsampling_ratio
        if self.inpaint_latents is not None:
            inpaint = fit_latents(self.inpaint_latents, shape)
        mask = self._mask(model, samples, samples if kept is None else kept)
        if mask is not None:
            mask = frame_mask(mask, samples=samples, ratio=ratio, frames=shape[-1])
        known = None
        if inpaint is not None and mask is not None and (imposed or not inpaints(model)):
            known = KnownLatents(
                latents=for_batch(inpaint.to(model.device), count, "inpaint_audio"),
                mask=for_batch(mask.to(model.device), count, "inpaint_mask"),
                repeats=1 if inpaints(model) else self.inpaint_repeats,
            )
        if not inpaints(model):
            return InputLatents(init, {}, known)
        return InputLatents(init, inpaint_tensors(model, inpaint, mask, count, shape), known)

    def _mask(self, model: DiffusionModel, samples: int, kept: int) -> Tensor | None:
        """inpaint_mask, or that of inpaint_seconds.

        A part that ends with the clip goes on behind it, where the network sees more than the clip: the
        silence that the sound is padded with there is nothing to keep.
        """
        if self.inpaint_seconds is None:
            return self.inpaint_mask
        assert self.inpaint_audio is not None
        spans = spans_of(self.inpaint_seconds, model.sample_rate, kept)
        seconds = self.inpaint_audio.shape[-1] / (self.inpaint_sample_rate or model.sample_rate)
        if spans and spans[-1][1] == kept and round(seconds * model.sample_rate) <= kept:
            spans[-1] = spans[-1][0], samples
        return kept_mask(spans, samples)

    def init_items(self, items: list[Metadata]) -> list[Metadata] | None:
        """Conditioning of init_audio for each of the clips with `items`; None: their own."""
        if self.init_conditioning is None:
            return None
        return conditioning_of_each(self.init_conditioning, items, "init_conditioning")

    def pasted(self, model: DiffusionModel, audio: Tensor) -> Tensor:
        """Generated audio (b c n) within inpaint_seconds, and inpaint_audio elsewhere, sample for sample."""
        if self.inpaint_seconds is None or self.inpaint_audio is None:
            return audio
        original = fit_audio(self.inpaint_audio, self.inpaint_sample_rate, model, audio.shape[-1])
        spans = spans_of(self.inpaint_seconds, model.sample_rate, audio.shape[-1])
        seam = round(self.seam_seconds * model.sample_rate)
        rate = self.inpaint_sample_rate or model.sample_rate
        end = resampled_length(self.inpaint_audio.shape[-1], rate, model.sample_rate)
        if any(first <= end < min(first + seam, audio.shape[-1]) for first, _ in spans):
            # The sound ends where it is cross-faded into what follows: it goes on for that time.
            count = min(seam, audio.shape[-1] - end)
            following = [extrapolated(clip[..., :end], count) for clip in original]
            original[..., end : end + count] = torch.stack(following)
        pairs = zip(for_batch(original, len(audio), "inpaint_audio"), audio)
        return torch.stack([with_parts(old, new, spans, seam) for old, new in pairs])


def conditioning_of_each(
    values: Metadata | str | Sequence[Metadata | str], items: list[Metadata], what: str
) -> list[Metadata]:
    """The conditioning `items` with other values, one dict or prompt for all or one for each.

    Raises:
        ValueError: another number of values than of clips; the message calls them `what`.
    """
    rows = [values] * len(items) if isinstance(values, (dict, str)) else list(values)
    if len(rows) != len(items):
        raise ValueError(f"{what}: found {len(rows)} values for {len(items)} clips")
    return [{**i, **({"prompt": v} if isinstance(v, str) else v)} for i, v in zip(items, rows)]


def for_batch(values: Tensor, count: int, what: str) -> Tensor:
    """Expand `values` to one row per item: a single row is repeated, `count` rows stay.

    Raises:
        ValueError: another number of rows; the message calls them `what`.
    """
    if len(values) == count:
        return values
    if len(values) == 1:
        return values.expand(count, *values.shape[1:])
    raise ValueError(f"{what}: found {len(values)} of them for {count} items; give 1 or {count}")


def inpaints(model: DiffusionModel) -> bool:
    """Whether the model reads an inpainting mask."""
    return any(INPAINT_MASK in ids for slot, ids in model.wiring.ids.items() if slot.has_frames)


def frame_mask(mask: Tensor, *, samples: int, ratio: int, frames: int) -> Tensor:
    """The frames that inpainting keeps: those that do not overlap a part to generate.

    Args:
        mask: (n,) or (b n), 1 = keep, 0 = generate: n equal parts of a clip of `samples` audio samples.
        ratio: audio samples per frame.
        frames: number of latent frames, which may exceed the clip; frames behind its end follow its last
            part.

    Returns:
        (b frames) float.
    """
    rows = (mask[None] if mask.ndim == 1 else mask).float().cpu()
    parts = rows.shape[-1]
    edges = torch.arange(frames + 1) * ratio
    first = (edges[:-1] * parts).div(samples, rounding_mode="floor").clamp(max=parts - 1)
    behind = -(edges[1:] * -parts).div(samples, rounding_mode="floor")  # rounded up
    behind = torch.maximum(behind.clamp(max=parts), first + 1)
    generated = F.pad((rows < 0.5).long().cumsum(-1), (1, 0))
    return (generated[:, behind] == generated[:, first]).float()


def inpaint_tensors(
    model: DiffusionModel,
    latents: Tensor | None,
    mask: Tensor | None,
    count: int,
    shape: tuple[int, ...],
) -> ConditionTensors:
    """The two conditioning tensors of an inpainting model.

    Args:
        latents: (b, *shape) of the audio to keep; None: there is none.
        mask: (b frames), 1 = keep, 0 = generate; None: generate everything.
    """
    device = model.device
    frames_to_keep = torch.zeros(count, 1, shape[-1], device=device)
    if mask is not None:
        frames_to_keep = for_batch(mask[:, None].to(device), count, "inpaint_mask")
    audio_latents = torch.zeros(count, *shape, device=device)
    if latents is not None:
        audio_latents = for_batch(latents, count, "inpaint_audio").to(device)
    return inpainting_tensors(audio_latents, frames_to_keep)
