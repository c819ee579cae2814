"""Distance of two sounds in the layers of a pretrained speech network (HuBERT, WavLM, wav2vec 2.0)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.audio.resample import resample_sinc
from stable_audio.network import load_failure, transformers_arguments

SAMPLE_RATE = 16_000
"""Sample rate in Hz of the training data of these networks."""

SPEECH_MODELS: dict[str, str] = {
    "HUBERT_LARGE": "facebook/hubert-large-ll60k",
    "WAVLM_LARGE": "microsoft/wavlm-large",
    "WAV2VEC2_LARGE_LV60K": "facebook/wav2vec2-large-lv60",
}
"""Names in configs -> hub ids."""

KINDS = ("hubert", "wavlm", "wav2vec2")
"""Supported model types of transformers."""


class HubertLoss(nn.Module):
    """Mean absolute difference of hidden layers, averaged over the layers of `feature_ids`.

    Every channel is compared by itself, at 16 kHz (converted in the graph), with mean 0 and variance 1. The
    network is loaded at first use, is frozen, and belongs neither to the state_dict nor to an optimizer;
    gradients pass through it to the second sound.

    Args:
        sample_rate: sample rate of the sounds in Hz.
        model_name: HUBERT_LARGE, WAVLM_LARGE or WAV2VEC2_LARGE_LV60K, or a folder saved by transformers or a
            hub id with a model of one of these kinds.
        feature_ids: transformer layers to compare, 0 is the first; None compares all of them.

    Raises:
        ImportError: transformers is missing.
        OSError: there is no usable network under `model_name`.
        ValueError: a layer that the network lacks, or sounds of less than a frame (25 ms).
    """

    def __init__(
        self, *, sample_rate: int, model_name: str = "HUBERT_LARGE", feature_ids: list[int] | None = None
    ) -> None:
        super().__init__()
        if feature_ids is not None and (not feature_ids or min(feature_ids) < 0):
            raise ValueError(
                f"feature_ids must be a list of layers from 0 on, or null for all; found {feature_ids}"
            )
        self.sample_rate, self.model_name, self.feature_ids = sample_rate, model_name, feature_ids
        # Not a submodule: frozen weights belong neither to checkpoints nor to optimizers.
        self._frozen: list[nn.Module] = []

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Sounds x, y (b c n) -> scalar. No gradient reaches x."""
        with torch.no_grad():
            layers_x = self.layers(x)
        layers_y = self.layers(y)
        return torch.stack([F.l1_loss(a, b) for a, b in zip(layers_y, layers_x)]).mean()

    def layers(self, audio: Tensor) -> list[Tensor]:
        """Audio (b c n) -> the layers of `feature_ids`, each (b*c frames d)."""
        network: Any = self.network(audio.device)
        converted = resample_sinc(audio.flatten(0, 1), self.sample_rate, SAMPLE_RATE)
        least = _receptive_field(network.config)
        if converted.shape[-1] < least:
            raise ValueError(
                f"the hubert loss needs at least {least} samples at {SAMPLE_RATE} Hz, found "
                f"{converted.shape[-1]}; raise sample_size or remove the section"
            )
        # The first entry of the tuple is the input of the first layer.
        hidden = network(_standardised(converted), output_hidden_states=True).hidden_states[1:]
        return (
            list(hidden) if self.feature_ids is None else [self._layer(hidden, i) for i in self.feature_ids]
        )

    def network(self, device: torch.device | str) -> nn.Module:
        """The frozen network on `device`, loaded at first use."""
        if not self._frozen:
            self._frozen.append(_load(self.model_name).eval().requires_grad_(False).float())
        return self._frozen[0].to(device)

    def _layer(self, hidden: tuple[Tensor, ...], index: int) -> Tensor:
        if index >= len(hidden):
            raise ValueError(
                f"feature_ids of the hubert loss has {index}, but '{self.model_name}' has layers 0 to "
                f"{len(hidden) - 1}"
            )
        return hidden[index]


def _standardised(audio: Tensor) -> Tensor:
    """Mean 0 and variance 1 along time, as these networks were trained."""
    return F.layer_norm(audio, audio.shape[-1:], eps=1e-7)


def _receptive_field(config: Any) -> int:
    """Number of samples in the receptive field of one frame."""
    samples = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride)):
        samples = (samples - 1) * stride + kernel
    return samples


def _load(name: str) -> nn.Module:
    try:
        import transformers
    except ImportError as error:
        raise ImportError('the hubert loss needs transformers: pip install "stable-audio[codecs]"') from error
    source = SPEECH_MODELS.get(name, name)
    place, options = transformers_arguments(source)
    try:
        kind = transformers.AutoConfig.from_pretrained(place, **options).model_type
        if kind not in KINDS:
            raise ValueError(f"it holds a model of the kind '{kind}', not one of {', '.join(KINDS)}")
        return transformers.AutoModel.from_pretrained(place, dtype=torch.float32, **options)
    except (OSError, ValueError) as error:
        raise OSError(
            f"the hubert loss cannot load model_name '{name}': {load_failure(source, error)}; give a folder "
            f"saved by transformers, or one of {', '.join(SPEECH_MODELS)} and connect to the hub"
        ) from error
