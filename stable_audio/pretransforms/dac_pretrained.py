"""The published Descript audio codecs, through the transformers library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.network import load_failure, transformers_arguments
from stable_audio.pretransforms.base import Pretransform

ModelType = Literal["44khz", "24khz", "16khz"]

# Settings of the published models, so that sizes are known without a download.
_PUBLISHED: dict[str, dict[str, Any]] = {
    "44khz": {"downsampling_ratios": [2, 4, 8, 8], "n_codebooks": 9, "sampling_rate": 44100},
    "24khz": {"downsampling_ratios": [2, 4, 5, 8], "n_codebooks": 32, "sampling_rate": 24000},
    "16khz": {"downsampling_ratios": [2, 4, 5, 8], "n_codebooks": 12, "sampling_rate": 16000},
}


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError('dac_pretrained needs transformers: pip install "stable-audio[codecs]"') from error
    return transformers


def _load(name: str | None, model_type: str) -> Any:
    """The codec with its weights; on the meta device only its structure, without a download."""
    library = _transformers()
    if torch.empty(0).is_meta:
        if name is None or not Path(name).exists():
            return library.DacModel(library.DacConfig(**_PUBLISHED[model_type]))
        return library.DacModel(library.DacConfig.from_pretrained(name, local_files_only=True))
    source = name if name is not None else f"descript/dac_{model_type}"
    place, options = transformers_arguments(source)
    try:
        return library.DacModel.from_pretrained(place, **options)
    except OSError as error:
        raise OSError(
            f"dac_pretrained: '{source}' cannot be loaded: {load_failure(source, error)}; set model_path to "
            "a folder with a saved DAC model, or connect to the hub"
        ) from error


class DACPretrainedPretransform(Pretransform):
    """Mono audio (b 1 n) -> latents (b d n / ratio) of a pretrained DAC codec. Frozen unless enable_grad.

    Args:
        model_type: rate of the published model: 44khz (ratio 512), 24khz or 16khz (ratio 320).
        model_bitrate: 8kbps, which transformers has; others need `model_path`.
        model_path: folder saved by transformers, or hub id, instead of the published model.
        scale: divisor of the latents.
        quantize_on_decode: latents are unquantised, and `decode` quantises them.
        chunked: encode and decode in chunks of 128 frames.
    """

    is_discrete = True

    def __init__(
        self,
        *,
        model_type: ModelType = "44khz",
        model_bitrate: str = "8kbps",
        model_path: str | None = None,
        scale: float = 1.0,
        quantize_on_decode: bool = True,
        chunked: bool = True,
        enable_grad: bool = False,
    ) -> None:
        super().__init__(enable_grad=enable_grad)
        if model_type not in _PUBLISHED:
            raise ValueError(f"model_type must be one of {', '.join(_PUBLISHED)}, found {model_type!r}")
        if model_bitrate != "8kbps" and model_path is None:
            raise ValueError(
                f"model_bitrate {model_bitrate!r} is not published for transformers; use 8kbps, or name a "
                "folder in model_path"
            )
        if scale <= 0:
            raise ValueError(f"scale must be positive, found {scale}")
        self.model = _load(model_path, model_type)
        self.scale, self.quantize_on_decode, self.chunked = scale, quantize_on_decode, chunked
        self.settings = () if quantize_on_decode else ("quantised",)
        settings = self.model.config
        self.io_channels, self.encoded_channels = 1, settings.hidden_size
        self.downsampling_ratio = int(settings.hop_length)
        self.sample_rate = settings.sampling_rate
        self.num_quantizers, self.codebook_size = settings.n_codebooks, settings.codebook_size
        self.freeze_unless_trained()

    def encode(self, audio: Tensor, *, noise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        return self.encode_chunked(audio) if self.chunked else self._encode(audio)

    def decode(self, latents: Tensor) -> Tensor:
        return self.decode_chunked(latents) if self.chunked else self._decode(latents)

    def encode_piece(self, audio: Tensor, noise: Callable[[Tensor], Tensor] | None) -> Tensor:
        return self._encode(audio)

    def decode_piece(self, latents: Tensor) -> Tensor:
        return self._decode(latents)

    def tokenize(self, audio: Tensor) -> Tensor:
        """Audio -> tokens (b q n)."""
        return self.model.quantizer(self.model.encoder(self._padded_to_frames(audio)))[1]

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens (b q n) -> audio; fewer codebooks than in training are allowed."""
        return self._finish(self.model.decoder(self.model.quantizer.from_codes(tokens)[0]), tokens.shape[-1])

    def _encode(self, audio: Tensor) -> Tensor:
        features = self.model.encoder(self._padded_to_frames(audio))
        return (features if self.quantize_on_decode else self.model.quantizer(features)[0]) / self.scale

    def _decode(self, latents: Tensor) -> Tensor:
        features = latents * self.scale
        features = self.model.quantizer(features)[0] if self.quantize_on_decode else features
        return self._finish(self.model.decoder(features), latents.shape[-1])

    def _padded_to_frames(self, audio: Tensor) -> Tensor:
        if audio.shape[1] != 1:
            raise ValueError(f"dac_pretrained takes mono audio (b 1 n), found {audio.shape[1]} channels")
        return F.pad(audio, (0, -audio.shape[-1] % self.downsampling_ratio))

    def _finish(self, audio: Tensor, frames: int) -> Tensor:
        """Pad or cut to exactly `frames` frames, because odd strides lose samples at the end."""
        length = frames * self.downsampling_ratio
        return F.pad(audio.view(audio.shape[0], 1, -1), (0, max(0, length - audio.shape[-1])))[..., :length]
