"""The encoder of a frozen autoencoder in float16, for sound that is encoded in every step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from stable_audio.model import DiffusionModel
from stable_audio.pretransforms.autoencoder_pretransform import AutoencoderPretransform
from stable_audio.pretransforms.base import Pretransform
from stable_audio.training.devices.resting import left_out
from stable_audio.training.errors import TrainingError

if TYPE_CHECKING:
    from stable_audio.training.diffusion.module import DiffusionTraining

log = logging.getLogger(__name__)

EncodingPrecision = Literal["float32", "float16"]

ENCODING_KEY = "encoding_precision"
"""Key of a training checkpoint's entry: (type of device, precision) in which its run encodes sound."""

_SETTING = f"$.training.{ENCODING_KEY}"


class HalvedEncoder:
    """A copy of a frozen autoencoder without its decoder, in float16; the autoencoder itself stays as it is.

    So demos decode in its own precision, and files hold the weights that were loaded.

    Args:
        pretransform: the autoencoder.
        device: where the copy computes.
    """

    def __init__(self, pretransform: AutoencoderPretransform, device: torch.device) -> None:
        with left_out(pretransform.model, ["decoder"]):
            copied = deepcopy(pretransform)
        copied.model.to(device=device, dtype=torch.float16)
        copied.model_half = True
        self.pretransform = copied

    def encode(self, audio: Tensor, *, noise: Callable[[Tensor], Tensor]) -> Tensor:
        """Audio (b c n) -> latents (b c n) float32, as `AutoencoderPretransform.encode`."""
        return self.pretransform.encode(audio.float(), noise=noise)


def can_be_halved(pretransform: Pretransform | None) -> bool:
    """Whether a pretransform is a frozen autoencoder of waveforms in float32. Spectrograms inside one lose
    too much in float16."""
    return (
        isinstance(pretransform, AutoencoderPretransform)
        and not pretransform.enable_grad
        and not pretransform.model_half
        and pretransform.model.pretransform is None
        and all(p.dtype == torch.float32 for p in pretransform.parameters())
    )


def encoding_precision(
    model: DiffusionModel,
    setting: str,
    *,
    pre_encoded: bool,
    device: str,
    resumed: bool = False,
    stored: Sequence[str] | None = None,
) -> EncodingPrecision:
    """The precision in which a run encodes sound.

    A run that continues on the same type of device keeps the one that it had, which was float32 before there
    was a choice. A new one takes float16 on a CUDA device, else float32.

    Args:
        setting: "auto", "float32" or "float16", of the model file.
        pre_encoded: batches hold latents.
        device: type of the run's device.
        resumed: whether the run continues from a checkpoint.
        stored: what the checkpoint has under `ENCODING_KEY`, if it has it.

    Raises:
        TrainingError: float16 is asked for where nothing can be encoded in it.
    """
    fits = not pre_encoded and can_be_halved(model.pretransform)
    if setting == "float16" and not fits:
        what = (
            "the dataset holds latents"
            if pre_encoded
            else "no frozen float32 autoencoder of waveforms encodes"
        )
        raise TrainingError(f'{_SETTING}: found "float16", but {what}; leave it out, or set "float32"')
    if setting != "auto" or not fits:
        return "float16" if setting == "float16" else "float32"
    if resumed and (stored is None or stored[0] == device):
        return "float16" if stored is not None and stored[1] == "float16" else "float32"
    return "float16" if device == "cuda" else "float32"


def choose_encoding(module: DiffusionTraining, *, device: str, entry: Mapping[str, Any] | None) -> None:
    """Set the precision in which a training module encodes sound, and log it where it is not float32.

    Args:
        device: type of the run's device.
        entry: that of the training checkpoint from which the run continues; None: it is new.
    """
    module.encoding_precision = encoding_precision(
        module.model,
        module.options.encoding_precision,
        pre_encoded=module.pre_encoded,
        device=device,
        resumed=entry is not None,
        stored=None if entry is None else entry.get(ENCODING_KEY),
    )
    if module.encoding_precision == "float16":
        log.info(
            "the frozen autoencoder encodes batches in float16 (files and demos keep float32); "
            '"%s": "float32" in the training section keeps float32 here, too',
            ENCODING_KEY,
        )
