"""The encoder of T5Gemma, an encoder-decoder made from Gemma 2. Needs the extra `[text]`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from stable_audio.conditioning.pretrained.conditioner import ReadingOptions, TextFeatures
from stable_audio.conditioning.pretrained.loading import load_network, on_meta, parameters_of, require_kind
from stable_audio.conditioning.pretrained.source import NetworkSource
from stable_audio.conditioning.pretrained.tokens import TextTokens
from stable_audio.conditioning.tokenizers import import_transformers
from stable_audio.options import Flat, takes_keywords

T5GEMMA = "google/t5gemma-b-b-ul2"
"""The encoder of Stable Audio 3."""

PUBLISHED: dict[str, dict[str, Any]] = {
    T5GEMMA: {
        "vocab_size": 256_000,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "head_dim": 64,
    },
}
"""Hub id -> settings of the encoder, so that sizes are known without a download."""

PARAMETERS = {T5GEMMA: 281_580_288}
"""Hub id -> number of its parameters, so that transformers need not be imported to count them."""


class T5GemmaConditioner(TextFeatures):
    """Prompts -> features of T5Gemma's encoder.

    Args:
        model_name: hub id of a T5Gemma.
        model_path: local folder of the model and its tokenizer; it takes precedence over `repo_id` and
            `model_name`.
        repo_id: hub repository that holds the model; it takes precedence over `model_name`.
        subfolder: folder of the model within `model_path` or `repo_id`.

    Raises:
        ValueError: the folder holds another model, or sizes are not known without a download.
    """

    @takes_keywords
    def __init__(
        self,
        *,
        output_dim: int,
        model_name: str = T5GEMMA,
        model_path: str | None = None,
        repo_id: str | None = None,
        subfolder: str | None = None,
        project_out: bool = False,
        reading: Flat[ReadingOptions] = ReadingOptions(),  # noqa: B008 (frozen)
    ) -> None:
        named = (("model_path", model_path), ("repo_id", repo_id), ("model_name", model_name))
        key, name = next((key, name) for key, name in named if name)
        within = (subfolder or "") if key != "model_name" else ""
        encoder = T5GemmaEncoder(NetworkSource(str(name), key, within), model_name)
        super().__init__(
            dim=encoder.settings["hidden_size"],
            output_dim=output_dim,
            project_out=project_out,
            tokens=TextTokens(source=encoder.source, max_length=reading.max_length),
            padding_mode=reading.padding_mode,
            **reading.around(encoder),
        )


@dataclass(frozen=True)
class T5GemmaEncoder:
    """Where an encoder of T5Gemma is.

    Attributes:
        source: folder or hub id.
        model_name: entry of PUBLISHED whose settings it has where it is not at hand.
    """

    source: NetworkSource
    model_name: str

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings of the encoder.

        Raises:
            ValueError: the source holds another model, or is not at hand and not known.
        """
        config = self.source.config_at_hand()
        if config is not None:
            require_kind(self.source, config, ("t5gemma",))
            return config["encoder"]
        if self.model_name not in PUBLISHED:
            raise ValueError(
                f"{self.source.key} '{self.source.name}' is neither a folder with a config.json, nor "
                f"downloaded, nor one of {sorted(PUBLISHED)}; download it first, or name its folder"
            )
        return PUBLISHED[self.model_name]

    def load(self, dtype: torch.dtype | None = None) -> nn.Module:
        """The encoder with its weights; without them while shapes are built."""
        if on_meta():
            return self.build()
        require_kind(self.source, self.source.config(), ("t5gemma",))
        config = self.source.config()
        config.is_encoder_decoder = False
        return load_network(_class(), self.source, dtype=dtype, config=config)

    def load_trained(self) -> nn.Module:
        """The encoder in float32."""
        return self.load(torch.float32)

    def build(self) -> nn.Module:
        """The encoder without weights."""
        settings = dict(self.settings)
        config = import_transformers().T5GemmaConfig(encoder=settings, decoder=settings)
        config.is_encoder_decoder = False
        return _class()(config)

    def identity(self) -> Any:
        return self.source.identity("T5GemmaEncoderModel")

    def count(self) -> int:
        """Number of the encoder's parameters."""
        known = self.source.config_at_hand() is None and self.model_name in PARAMETERS
        return PARAMETERS[self.model_name] if known else parameters_of(self.build)


def _class() -> Any:
    try:
        return import_transformers().T5GemmaEncoderModel
    except AttributeError as error:
        raise ImportError(
            'this version of transformers has no T5Gemma: pip install --upgrade "transformers>=4.53"'
        ) from error
