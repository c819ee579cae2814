"""Sounds read by the audio branch of CLAP (Wu et al. 2023). Needs the extra `[text]`."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.conditioning.base import Layout
from stable_audio.conditioning.pretrained.clap import PUBLISHED_AUDIO, ClapBranch, ClapOptions
from stable_audio.conditioning.pretrained.clap_features import PUBLISHED, ClapFeatures
from stable_audio.conditioning.pretrained.conditioner import PretrainedConditioner
from stable_audio.conditioning.pretrained.laion import AUDIO
from stable_audio.conditioning.pretrained.loading import require_layer
from stable_audio.conditioning.sound_values import SoundReader, read_sound
from stable_audio.conditioning.tokenizers import import_transformers
from stable_audio.conditioning.values import SoundValue
from stable_audio.options import Flat, takes_keywords

PREPROCESSOR = "preprocessor_config.json"


class ClapAudioConditioner(PretrainedConditioner, SoundReader):
    """Sounds -> the projected embedding of CLAP (b 1 d), of length 1, or the features of a hidden layer.

    Values are (c n) at `sample_rate`, (rate, (c n)), or the path of an audio file; they become mono at the
    rate of the CLAP, 48 kHz. Of sounds longer than 10 s, parts are read, always the same.

    Args:
        use_audio_features: return the hidden layer `feature_layer_ix` of HTSAT (b l d), one row per patch of
            its image of the spectrogram, instead of the embedding.
        audio_model_type: size of the audio branch where `clap_ckpt_path` is not at hand; a file or folder
            says it itself.
        sample_rate: sample rate in Hz of sounds that come as a tensor alone.

    Raises:
        ValueError: the file or folder holds no CLAP, it was trained with another `enable_fusion`, or the
            layer does not exist.
    """

    @takes_keywords
    def __init__(
        self,
        *,
        output_dim: int,
        clap: Flat[ClapOptions],
        use_audio_features: bool = False,
        audio_model_type: Literal["HTSAT-tiny", "HTSAT-base", "HTSAT-large"] = "HTSAT-base",
        project_out: bool = False,
        sample_rate: int = 48_000,
    ) -> None:
        if sample_rate < 1:
            raise ValueError(f"sample_rate is {sample_rate}; it must be at least 1 Hz")
        self.fusion = clap.enable_fusion
        fusion = {"enable_fusion": self.fusion, "fusion_type": "aff_2d" if self.fusion else None}
        published = {**PUBLISHED_AUDIO[audio_model_type], **fusion, "projection_dim": 512}
        self.branch = ClapBranch(clap.source, AUDIO, published)
        self.use_audio_features, self.feature_layer_ix = use_audio_features, clap.feature_layer_ix
        self.sample_rate = sample_rate
        if self.branch.setting("enable_fusion") != self.fusion:
            raise ValueError(
                f"enable_fusion is {str(self.fusion).lower()}, but '{clap.clap_ckpt_path}' was trained "
                f"{'without' if self.fusion else 'with'} fusion; change it"
            )
        super().__init__(
            dim=self._layer_width() if use_audio_features else self.branch.setting("projection_dim"),
            output_dim=output_dim,
            project_out=project_out,
            **clap.around(self.branch),
        )

    @property
    def layout(self) -> Layout:
        return "tokens" if self.use_audio_features else "vector"

    def value_rule(self) -> SoundValue:
        return SoundValue()

    def forward(self, values: list[Any], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """b sounds -> (b 1 d) or, of a hidden layer, (b l d); mask (b l), all valid."""
        sounds = [self.sound(v)[0] for v in values]
        with self.encoding(device):
            network: Any = self.encoder(device)
            features = self._features(network, *self.extractor(sounds, device))
        return self.projected(features), torch.ones(features.shape[:2], dtype=torch.bool, device=device)

    def sound(self, value: Any) -> Tensor:
        """One value -> (1 n) float32 at the rate of the CLAP, mono.

        Raises:
            ValueError: the value is neither a file, nor audio, nor (rate, audio).
        """
        return read_sound(value, default_rate=self.sample_rate, rate=self.extractor.sample_rate, channels=1)

    def fitted(self, value: Any, samples: int) -> Any:
        """(rate, sound): the sound stays whole, since CLAP reads sounds of any length."""
        return self.extractor.sample_rate, self.sound(value)

    @cached_property
    def extractor(self) -> ClapFeatures:
        """How spectrograms are made: as the folder or hub model says, or as every CLAP of LAION."""
        extractor_class = import_transformers().ClapFeatureExtractor
        name, options = self.branch.source.arguments()
        local = self.branch.source.is_local
        if self.branch.is_laion or (local and not (self.branch.source.path / PREPROCESSOR).is_file()):
            return ClapFeatures.of(extractor_class(**PUBLISHED), fusion=self.fusion)
        try:
            return ClapFeatures.of(extractor_class.from_pretrained(name, **options), fusion=self.fusion)
        except (OSError, ValueError) as error:
            raise self.branch.source.failure(error) from error

    def _features(self, network: Any, spectrograms: Tensor, longer: Tensor) -> Tensor:
        dtype = next(network.parameters()).dtype
        output = network(input_features=spectrograms.to(dtype), is_longer=longer, output_hidden_states=True)
        if not self.use_audio_features:
            return F.normalize(output.audio_embeds, dim=-1).unsqueeze(1)
        return output.hidden_states[self.feature_layer_ix].flatten(2).transpose(1, 2)

    def _layer_width(self) -> int:
        """Features of the hidden layer: each stage but the last doubles them at its end."""
        stages = len(self.branch.setting("depths"))
        require_layer("feature_layer_ix", self.feature_layer_ix, stages)
        return self.branch.setting("patch_embeds_hidden_size") * 2 ** min(
            self.feature_layer_ix % (stages + 1), stages - 1
        )
