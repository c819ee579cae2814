"""Prompts read by the text branch of CLAP (Wu et al. 2023). Needs the extra `[text]`."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.conditioning.base import Layout
from stable_audio.conditioning.pretrained.clap import PUBLISHED_TEXT, ClapBranch, ClapOptions
from stable_audio.conditioning.pretrained.conditioner import PaddingMode, TextFeatures
from stable_audio.conditioning.pretrained.laion import TEXT
from stable_audio.conditioning.pretrained.loading import require_layer
from stable_audio.conditioning.pretrained.source import NetworkSource
from stable_audio.conditioning.pretrained.tokens import TextTokens
from stable_audio.options import Flat, takes_keywords

ROBERTA = "roberta-base"
"""Hub id of the tokenizer of LAION-CLAP, which its files do not hold."""


class ClapTextConditioner(TextFeatures):
    """Prompts -> the projected embedding of CLAP (b 1 d), of length 1, or the features of a hidden layer.

    Args:
        use_text_features: return the hidden layer `feature_layer_ix` of RoBERTa (b max_length d) instead of
            the embedding.
        audio_model_type: audio branch of the same CLAP; without effect, since it is not loaded.
        tokenizer: folder or hub id of the tokenizer; null: that of `clap_ckpt_path`, or roberta-base for a
            checkpoint of LAION-CLAP with no tokenizer beside it.
        max_length: tokens per prompt; shorter ones are padded, longer ones cut.
        padding_mode: what stands at padding of a hidden layer: what the encoder returns there, zeros, or a
            learned vector.

    Raises:
        ValueError: the file or folder holds no CLAP, or the layer does not exist.
    """

    @takes_keywords
    def __init__(
        self,
        *,
        output_dim: int,
        clap: Flat[ClapOptions],
        use_text_features: bool = False,
        audio_model_type: str = "HTSAT-base",
        project_out: bool = False,
        tokenizer: str | None = None,
        max_length: int = 77,
        padding_mode: PaddingMode = "none",
    ) -> None:
        branch = ClapBranch(clap.source, TEXT, PUBLISHED_TEXT)
        self.use_text_features, self.feature_layer_ix = use_text_features, clap.feature_layer_ix
        if use_text_features and clap.feature_layer_ix not in (-1, 0):
            require_layer("feature_layer_ix", clap.feature_layer_ix, branch.setting("num_hidden_layers"))
        super().__init__(
            dim=branch.setting("hidden_size" if use_text_features else "projection_dim"),
            output_dim=output_dim,
            project_out=project_out,
            tokens=TextTokens(source=_tokenizer_source(tokenizer, branch), max_length=max_length),
            padding_mode=padding_mode,
            **clap.around(branch),
        )

    @property
    def layout(self) -> Layout:
        return "tokens" if self.use_text_features else "vector"

    def read(self, network: nn.Module, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if not self.use_text_features:
            embedding = network(input_ids=ids, attention_mask=mask).text_embeds
            return F.normalize(embedding, dim=-1).unsqueeze(1), torch.ones_like(mask[:, :1])
        output: Any = network(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        return output.hidden_states[self.feature_layer_ix], mask

    def meaning(self) -> Hashable:
        layer = self.feature_layer_ix if self.use_text_features else None
        return (super().meaning(), layer)


def _tokenizer_source(name: str | None, branch: ClapBranch) -> NetworkSource:
    if name is not None:
        return NetworkSource(name, "tokenizer")
    if not branch.is_laion:
        return branch.source
    beside = branch.source.path.parent
    return NetworkSource(
        str(beside) if (beside / "tokenizer_config.json").is_file() else ROBERTA, "tokenizer"
    )
