"""The text encoder of any model that transformers' auto classes load."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from stable_audio.conditioning.pretrained.loading import load_network, on_meta, parameters_of
from stable_audio.conditioning.pretrained.source import NetworkSource
from stable_audio.conditioning.tokenizers import import_transformers

WIDTHS = ("hidden_size", "d_model", "dim", "n_embd", "emb_dim", "embedding_size")
"""Keys of a config.json for the features of an encoder, in the order of preference."""

DEPTHS = ("num_hidden_layers", "num_layers", "encoder_layers", "n_layers", "n_layer")
"""Keys of a config.json for the number of its layers."""

HALVES = ("text_config", "encoder")
"""Keys of a config.json that hold the settings of the text half, or of the encoder."""


@dataclass(frozen=True)
class AnyEncoder:
    """A text encoder, or the text half or the encoder of a model.

    Attributes:
        source: folder or hub id.
        pooler: whether the network's own pooling is used; otherwise its weights may be missing.
    """

    source: NetworkSource
    pooler: bool = False

    def dim(self, stated: int | None) -> int:
        """Features of the encoder, by its config.json or as `stated`.

        Raises:
            ValueError: neither says it, or they contradict each other.
        """
        known = self._setting(WIDTHS)
        if known is None and stated is None:
            raise ValueError(
                f"{self.source.key} '{self.source.name}' has no config.json at hand that says how many "
                "features it has; download it first, name a folder that holds it, or give 'dim'"
            )
        if None not in (known, stated) and known != stated:
            raise ValueError(f"dim is {stated}, but '{self.source.name}' has {known} features")
        return stated if known is None else known  # type: ignore[return-value]

    def layers(self) -> int | None:
        """Number of its layers; None if that is not known yet."""
        return self._setting(DEPTHS)

    def load(self, dtype: torch.dtype | None = None) -> nn.Module:
        """The encoder with its weights; without them while shapes are built.

        Raises:
            ImportError: transformers is missing; the message names the extra.
            OSError: there is no such model, or weights are missing.
        """
        if on_meta():
            return self.build()
        config = _adapted(self.source.config())
        unused = () if self.pooler else ("pooler.", "text_model.pooler.")
        network = load_network(_class_for(config), self.source, dtype=dtype, unused=unused, config=config)
        return _text_half(network, config)

    def load_trained(self) -> nn.Module:
        """The encoder in float32."""
        return self.load(torch.float32)

    def build(self) -> nn.Module:
        """The encoder without weights, in float32."""
        config = _adapted(self.source.config())
        return _text_half(_class_for(config).from_config(config).float(), config)

    def identity(self) -> Hashable:
        if self._kind() == "t5":  # the conditioner t5 loads the same network
            return self.source.identity("T5EncoderModel")
        return self.source.identity("text encoder with pooler" if self.pooler else "text encoder")

    def count(self) -> int:
        """Number of its parameters.

        Raises:
            OSError: its config.json is not at hand; counting downloads nothing.
        """
        if self.source.config_at_hand() is None:
            raise OSError(f"'{self.source.name}' was not downloaded yet")
        return parameters_of(self.build)

    def _kind(self) -> Any:
        return (self.source.config_at_hand() or {}).get("model_type")

    def _setting(self, names: tuple[str, ...]) -> int | None:
        config = self.source.config_at_hand()
        if config is None:
            return None
        within = next((config[k] for k in HALVES if isinstance(config.get(k), Mapping)), config)
        value = next((within[k] for k in names if isinstance(within.get(k), int)), None)
        if value is None:  # what equals transformers' default is not in the file
            complete = self.source.config()
            half = next((getattr(complete, k) for k in HALVES if hasattr(complete, k)), complete)
            value = next((v for k in names if isinstance(v := getattr(half, k, None), int)), None)
        return value


def _adapted(config: Any) -> Any:
    """The config for reading alone: no decoder, nothing kept for the next token."""
    if config.model_type == "t5gemma":  # its encoder refuses the config of the whole model
        config.is_encoder_decoder = False
    if getattr(config, "use_cache", False):
        config.use_cache = False
    return config


def _class_for(config: Any) -> Any:
    """The auto class that loads the encoder alone, or else the whole model."""
    library = import_transformers()
    encoders = library.MODEL_FOR_TEXT_ENCODING_MAPPING
    return library.AutoModelForTextEncoding if type(config) in encoders else library.AutoModel


def _text_half(network: Any, config: Any) -> nn.Module:
    if isinstance(half := getattr(network, "text_model", None), nn.Module) and hasattr(config, "text_config"):
        return half
    return network.get_encoder() if config.is_encoder_decoder else network
