"""One branch of CLAP (Wu et al. 2023), from transformers' layout or from a checkpoint of LAION-CLAP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import nn

from stable_audio.conditioning.pretrained.conditioner import DTYPES
from stable_audio.conditioning.pretrained.laion import (
    AUDIO,
    ROBERTA_EPS,
    TEXT,
    audio_settings,
    read_laion,
    text_settings,
    to_transformers,
)
from stable_audio.conditioning.pretrained.loading import load_network, on_meta, parameters_of, require_kind
from stable_audio.conditioning.pretrained.network import LazyNetwork
from stable_audio.conditioning.pretrained.source import NetworkSource
from stable_audio.conditioning.tokenizers import import_transformers

FILES = frozenset({".pt", ".pth", ".ckpt", ".bin", ".safetensors"})
"""Suffixes of files of LAION-CLAP; other names are folders or hub ids."""

CLASSES = {
    TEXT: ("ClapTextConfig", "ClapTextModelWithProjection"),
    AUDIO: ("ClapAudioConfig", "ClapAudioModelWithProjection"),
}

SHARED = ("projection_dim", "projection_hidden_act")
"""Settings of both branches, which stand beside them in a config.json."""

PUBLISHED_TEXT: dict[str, Any] = {"hidden_size": 768, "projection_dim": 512, "num_hidden_layers": 12}
"""Settings of the text branch of every published CLAP of LAION."""

PARAMETERS_TEXT = 125_302_016
"""Number of its parameters."""

PUBLISHED_AUDIO: dict[str, dict[str, Any]] = {
    "HTSAT-tiny": {"patch_embeds_hidden_size": 96, "hidden_size": 768, "depths": [2, 2, 6, 2]},
    "HTSAT-base": {"patch_embeds_hidden_size": 128, "hidden_size": 1024, "depths": [2, 2, 12, 2]},
    "HTSAT-large": {"patch_embeds_hidden_size": 256, "hidden_size": 2048, "depths": [2, 2, 12, 2]},
}
"""`audio_model_type` -> settings of the audio branch."""


@dataclass(frozen=True)
class ClapOptions:
    """What the conditioners around either branch have in common.

    Attributes:
        clap_ckpt_path: checkpoint of LAION-CLAP, folder saved by transformers' ClapModel, or its hub id.
        feature_layer_ix: the hidden layer to return, if one is asked for: 0 is the input of the first layer,
            -1 the output of the last.
        enable_fusion: whether the CLAP was trained to fuse parts of long sounds; no matter for text.
        finetune: train the branch; it is in checkpoints only then.
        encoder_dtype: type of a frozen branch; a trained one is float32.
    """

    clap_ckpt_path: str
    feature_layer_ix: int = -1
    enable_fusion: bool = True
    finetune: bool = False
    encoder_dtype: Literal["float16", "bfloat16", "float32"] = "float32"

    @property
    def source(self) -> NetworkSource:
        """Where the CLAP is."""
        return NetworkSource(self.clap_ckpt_path, "clap_ckpt_path")

    def around(self, branch: ClapBranch) -> dict[str, Any]:
        """Keywords of `PretrainedConditioner` for a branch."""
        dtype = DTYPES[self.encoder_dtype]
        return {"train": self.finetune, "load_trained": branch.load, "network": branch.lazy(dtype)}


@dataclass(frozen=True)
class ClapBranch:
    """The text or the audio branch of a CLAP.

    Attributes:
        source: file of LAION-CLAP, folder or hub id.
        branch: TEXT or AUDIO.
        published: settings where the source is not at hand.
    """

    source: NetworkSource
    branch: str
    published: Mapping[str, Any]

    @cached_property
    def is_laion(self) -> bool:
        """Whether the source is a file of LAION-CLAP."""
        return self.source.path.is_file() or self.source.path.suffix in FILES

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """Settings of the branch: of the source, or else `published`, for which no network is asked.

        Raises:
            ValueError: the source is of another kind.
        """
        if self.is_laion:
            if not self.source.path.is_file():
                return {**self.published, "layer_norm_eps": ROBERTA_EPS}
            return self._settings_of(read_laion(self.source.path))
        config = self.source.config_at_hand()
        if config is None:
            return self.published
        require_kind(self.source, config, ("clap", f"clap_{self.branch}_model"))
        shared = {k: config[k] for k in SHARED if k in config}
        return {**config.get(f"{self.branch}_config", config), **shared}

    def configuration(self) -> Any:
        """The same as transformers' object."""
        return self._classes[0](**self.settings)

    def setting(self, name: str) -> Any:
        """One of the settings; transformers leaves out those that have its default."""
        return self.settings[name] if name in self.settings else getattr(self.configuration(), name)

    def build(self) -> nn.Module:
        """The branch without weights."""
        return self._classes[1](self.configuration())

    def load(self) -> nn.Module:
        """The branch with its weights in float32; without them while shapes are built.

        Raises:
            ImportError: transformers is missing; the message names the extra.
            OSError, ValueError: there is no such file, folder or model, or it is of another kind.
        """
        if on_meta():
            return self.build()
        if not self.is_laion:
            config = self.source.config()
            require_kind(self.source, config, ("clap", f"clap_{self.branch}_model"))
            config = getattr(config, f"{self.branch}_config", config)
            return load_network(self._classes[1], self.source, dtype=torch.float32, config=config)
        tensors = read_laion(self.source.path)
        config_class, network_class = self._classes
        with torch.random.fork_rng(devices=[]):  # the random weights are replaced
            network = network_class(config_class(**self._settings_of(tensors)))
        report = network.load_state_dict(to_transformers(tensors, self.branch), strict=False)
        buffers = {name for name, _ in network.named_buffers()}
        missing = [k for k in report.missing_keys if k not in buffers]
        if missing or report.unexpected_keys:
            keys = ", ".join([*missing, *report.unexpected_keys][:3])
            raise ValueError(
                f"{self.source.path}: its {self.branch}_branch is not the one of LAION-CLAP; missing or "
                f"unknown: {keys}"
            )
        return network

    def lazy(self, dtype: torch.dtype | None) -> LazyNetwork:
        """The branch, frozen, to be loaded when it is needed."""
        return LazyNetwork(load=self.load, identity=self._identity, count=self._count, dtype=dtype)

    @property
    def _classes(self) -> tuple[Any, Any]:
        library = import_transformers()
        config, network = CLASSES[self.branch]
        return getattr(library, config), getattr(library, network)

    def _identity(self) -> Any:
        return self.source.identity(CLASSES[self.branch][1])

    def _count(self) -> int:
        published = self.branch == TEXT and self.settings.items() >= PUBLISHED_TEXT.items()
        known = published and not self.source.is_local and "vocab_size" not in self.settings
        return PARAMETERS_TEXT if known else parameters_of(self.build)

    def _settings_of(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return text_settings(tensors) if self.branch == TEXT else audio_settings(tensors)
        except ValueError as error:
            raise ValueError(f"{self.source.path}: {error}") from error
