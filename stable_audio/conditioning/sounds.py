"""Sounds as conditioning: encoded by a pretransform, for the input_concat slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.audio.transforms import fit_length
from stable_audio.conditioning.base import Conditioner, Layout
from stable_audio.conditioning.sound_values import SoundReader, read_sound
from stable_audio.conditioning.values import SoundValue, SourcesValue, ValueRule
from stable_audio.diffusion.noise import SeededNoise
from stable_audio.nn.transfer import to_device
from stable_audio.pretransforms.base import Pretransform


class PretransformConditioner(Conditioner, SoundReader):
    """A sound -> its latents, with a linear layer over channels if the widths differ.

    Values are (c n) at `sample_rate`, (rate, (c n)), or the path of an audio file. Sounds of a batch are
    padded with zeros to the longest. In training the noise of a VAE comes from torch's generator; in eval
    mode it is the same for every sound and every call, so that a sound always gives the same conditioning.

    Args:
        pretransform: encodes the sounds; may be the one of the model.
        sample_rate: sample rate in Hz of the pretransform's input; sounds at other rates are converted.
        save_pretransform: register the pretransform as a submodule, which checkpoints then hold.

    Raises:
        ValueError: sample_rate below 1.
    """

    def __init__(
        self,
        *,
        output_dim: int,
        pretransform: Pretransform,
        sample_rate: int,
        save_pretransform: bool = False,
    ) -> None:
        super().__init__(dim=pretransform.encoded_channels, output_dim=output_dim)
        if sample_rate < 1:
            raise ValueError(f"sample_rate is {sample_rate}; it must be at least 1 Hz")
        self.sample_rate, self.save_pretransform = sample_rate, save_pretransform
        self.pretransform: Pretransform
        if save_pretransform:
            self.pretransform = pretransform
        else:
            # Bypass nn.Module, so that the pretransform is in neither checkpoints nor optimizers.
            object.__setattr__(self, "pretransform", pretransform)

    @property
    def layout(self) -> Layout:
        return "frames"

    def followers(self) -> Sequence[nn.Module]:
        return () if self.save_pretransform else (self.pretransform,)

    def value_rule(self) -> ValueRule:
        return SoundValue()

    def forward(self, values: list[Any], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """b sounds -> (b c n), mask (b n), all valid."""
        latents = self.encode([self.sound(v) for v in values], device)
        features = self.proj_out(latents.movedim(1, -1)).movedim(-1, 1)
        return features, _all_valid(features)

    def sound(self, value: Any) -> Tensor:
        """One value -> (c n) float32 at `sample_rate`, with the channels of the pretransform.

        Raises:
            ValueError: the value is neither a file, nor audio, nor (rate, audio).
        """
        return read_sound(
            value,
            default_rate=self.sample_rate,
            rate=self.sample_rate,
            channels=self.pretransform.io_channels,
        )

    def fitted(self, value: Any, samples: int) -> Any:
        """The value with its sound cut or padded to `samples` at `sample_rate`."""
        return fit_length(self.sound(value), samples)

    def encode(self, sounds: list[Tensor], device: torch.device | str) -> Tensor:
        """Sounds (c n) of any lengths -> latents (b c n) float32."""
        ratio = self.pretransform.downsampling_ratio
        length = -(-max(s.shape[-1] for s in sounds) // ratio) * ratio
        audio = to_device(torch.stack([fit_length(s, length) for s in sounds]), device, self._dtype())
        train = self.pretransform.enable_grad and torch.is_grad_enabled()
        with torch.set_grad_enabled(train), torch.autocast(torch.device(device).type, enabled=False):
            if self.training:
                return self.pretransform.encode(audio).float()
            pieces = [self.pretransform.encode(a, noise=SeededNoise([0])) for a in audio.split(1)]
            return torch.cat(pieces).float()

    def _dtype(self) -> torch.dtype:
        """Dtype of the pretransform's input: that of its weights, unless it converts by itself."""
        parameter = next(self.pretransform.parameters(), None)
        if parameter is None or getattr(self.pretransform, "model_half", False):
            return torch.float32
        return parameter.dtype


class SourceMixConditioner(PretransformConditioner):
    """Several sounds of one clip, such as stems -> the sum of their latents after a 1x1 convolution each.

    A value is a dict {source: sound}; sources that it lacks add nothing.

    Args:
        source_keys: names of the sources, in the order of their convolutions.
        pre_encoded: values hold latents (c n) instead of sounds.
        allow_null_source: an item may have no source; a learned vector then replaces the sum.
        source_length: latent frames of that vector if no other item of the batch sets the length. None: 1
            frame, which the backbone repeats.

    Raises:
        ValueError: no source_keys, or duplicates.
    """

    def __init__(
        self,
        *,
        output_dim: int,
        pretransform: Pretransform,
        sample_rate: int,
        source_keys: list[str],
        pre_encoded: bool = False,
        allow_null_source: bool = False,
        source_length: int | None = None,
        save_pretransform: bool = False,
    ) -> None:
        super().__init__(
            output_dim=output_dim,
            pretransform=pretransform,
            sample_rate=sample_rate,
            save_pretransform=save_pretransform,
        )
        if not source_keys or len(set(source_keys)) != len(source_keys):
            raise ValueError(f"source_keys is {source_keys}; name at least one source, each once")
        if source_length is not None and source_length < 1:
            raise ValueError(f"source_length is {source_length}; it must be at least 1 latent frame")
        self.source_keys, self.pre_encoded, self.source_length = list(source_keys), pre_encoded, source_length
        # Unused, but present in existing checkpoints.
        self.proj_out.requires_grad_(False)
        self.source_heads = nn.ModuleList([nn.Conv1d(self.dim, output_dim, 1) for _ in source_keys])
        self.null_source = nn.Parameter(torch.zeros(output_dim, 1)) if allow_null_source else None

    @property
    def may_rest(self) -> bool:
        """Sources that no item of a batch has leave their convolutions without a gradient."""
        return True

    def value_rule(self) -> ValueRule:
        return SourcesValue(null=self.null_source is not None)

    def forward(self, values: list[Any], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """b dicts {source: sound} -> (b c n), mask (b n), all valid."""
        items = [self._sources(value) for value in values]
        flat = [sound for item in items for sound in item.values()]
        latents = iter(self._latents(flat, device) if flat else ())
        features: list[Tensor | None] = []
        for item in items:
            projected = [self.source_heads[head](next(latents)[None])[0] for head in item]
            features.append(torch.stack(projected).sum(dim=0) if projected else None)
        length = max((m.shape[-1] for m in features if m is not None), default=self.source_length or 1)
        mixed = torch.stack([m if m is not None else self._null(length) for m in features])
        return mixed, _all_valid(mixed)

    def fitted(self, value: Any, samples: int) -> Any:
        """The value with its sounds cut or padded to `samples` at `sample_rate`; latents are unchanged."""
        if self.pre_encoded:
            return value
        heads = self._sources(value)
        return {self.source_keys[head]: fit_length(self.sound(v), samples) for head, v in heads.items()}

    def _sources(self, value: Any) -> dict[int, Any]:
        """Index of the convolution -> sound, for the sources that the item has."""
        value = {} if value is None and self.null_source is not None else value
        if not isinstance(value, Mapping):
            raise ValueError(f"a dict {{source: sound}} is needed, found {type(value).__name__}")
        sources = {
            head: value[key] for head, key in enumerate(self.source_keys) if value.get(key) is not None
        }
        if not sources and (value or self.null_source is None):
            raise ValueError(
                f"found the sources {sorted(value)}, but at least one of {self.source_keys} is needed"
                + ("" if self.null_source is None else ", or an empty dict")
            )
        return sources

    def _latents(self, values: list[Any], device: torch.device | str) -> Tensor:
        if not self.pre_encoded:
            return self.encode([self.sound(v) for v in values], device)
        latents = [to_device(torch.as_tensor(v), device, torch.float32) for v in values]
        wrong = next((v for v in latents if v.ndim != 2 or v.shape[0] != self.dim), None)
        if wrong is not None:
            raise ValueError(
                f"latents have the shape ({self.dim}, frames), found {tuple(wrong.shape)}; "
                "for sounds set 'pre_encoded' to false"
            )
        length = max(v.shape[-1] for v in latents)
        return torch.stack([F.pad(v, (0, length - v.shape[-1])) for v in latents])

    def _null(self, length: int) -> Tensor:
        assert self.null_source is not None
        return self.null_source.expand(-1, length)


def _all_valid(features: Tensor) -> Tensor:
    return torch.ones(features.shape[0], features.shape[-1], dtype=torch.bool, device=features.device)
