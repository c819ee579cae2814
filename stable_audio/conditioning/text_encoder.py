"""Prompts read by any text encoder of transformers. Needs the extra `[text]`."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stable_audio.conditioning.base import Layout
from stable_audio.conditioning.pretrained.any_encoder import AnyEncoder
from stable_audio.conditioning.pretrained.conditioner import ReadingOptions, TextFeatures
from stable_audio.conditioning.pretrained.loading import require_layer
from stable_audio.conditioning.pretrained.source import NetworkSource
from stable_audio.conditioning.pretrained.tokens import TextTokens
from stable_audio.options import Flat, takes_keywords

Pooling = Literal["none", "mean", "first", "last", "pooler"]
"""What becomes of a prompt's tokens: they stay, or one vector: their mean, the first or the last of them, or
what the network itself makes of them."""


class TextEncoderConditioner(TextFeatures):
    """Prompts -> features of a pretrained encoder: a sequence (b max_length d), or pooled one vector (b 1 d).

    Args:
        model_name: folder saved by transformers, or hub id, owner/name or owner/name@revision. A model with
            an encoder and a decoder reads with its encoder, one of texts and images with its text half.
        subfolder: folder of the model within it.
        tokenizer: folder or hub id of the tokenizer; null: that of the model.
        layer: hidden state to read, 0 is the input of the first layer, -1 the output of the last one; null:
            the final features, after the last norm.
        pooling: none: every token; mean, first or last: of the tokens that are no padding; pooler: the
            network's own.
        prefix: text before every prompt, for encoders that were trained with one, such as "query: ".
        dim: features of the encoder; null: read from its config.json, which must then be at hand.

    Raises:
        ValueError: `dim` is needed, or contradicts the config.json, or the layer does not exist.
    """

    @takes_keywords
    def __init__(
        self,
        *,
        output_dim: int,
        model_name: str,
        subfolder: str | None = None,
        tokenizer: str | None = None,
        layer: int | None = None,
        pooling: Pooling = "none",
        prefix: str = "",
        dim: int | None = None,
        project_out: bool = False,
        reading: Flat[ReadingOptions] = ReadingOptions(),  # noqa: B008 (frozen)
    ) -> None:
        source = NetworkSource(model_name, "model_name", subfolder or "")
        encoder = AnyEncoder(source, pooler=pooling == "pooler")
        self.layer, self.pooling = layer, pooling
        if layer is not None and (layers := encoder.layers()) is not None:
            require_layer("layer", layer, layers)
        tokens = source if tokenizer is None else NetworkSource(tokenizer, "tokenizer")
        super().__init__(
            dim=encoder.dim(dim),
            output_dim=output_dim,
            project_out=project_out,
            tokens=TextTokens(source=tokens, max_length=reading.max_length, prefix=prefix),
            padding_mode=reading.padding_mode,
            **reading.around(encoder),
        )

    @property
    def layout(self) -> Layout:
        return "tokens" if self.pooling == "none" else "vector"

    def read(self, network: nn.Module, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        output: Any = network(input_ids=ids, attention_mask=mask, output_hidden_states=self.layer is not None)
        if self.pooling == "pooler":
            if getattr(output, "pooler_output", None) is None:
                name = self.tokens.source.name
                raise ValueError(f"pooling is pooler, but '{name}' has none; take mean, first or last")
            return output.pooler_output.unsqueeze(1), torch.ones_like(mask[:, :1])
        hidden = output.last_hidden_state
        if self.layer is not None:
            require_layer("layer", self.layer, len(output.hidden_states) - 1)
            hidden = output.hidden_states[self.layer]
        # Attention over no token at all, as of an empty prompt, gives anything, even NaN.
        hidden = hidden.masked_fill(~mask.any(dim=1)[:, None, None], 0)
        if self.pooling == "none":
            return hidden, mask
        return POOLINGS[self.pooling](hidden, mask), torch.ones_like(mask[:, :1])

    def meaning(self) -> Hashable:
        return (super().meaning(), self.layer, self.pooling)


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    valid = mask.unsqueeze(-1)
    total = hidden.masked_fill(~valid, 0).float().sum(dim=1, keepdim=True)
    return (total / valid.sum(dim=1, keepdim=True).clamp(min=1)).to(hidden.dtype)


def _first(hidden: Tensor, mask: Tensor) -> Tensor:
    # Padding may be on the left; the argument of the maximum is the first of equal values.
    return _row(hidden, mask.int().argmax(dim=1))


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    return _row(hidden, mask.shape[1] - 1 - mask.flip(1).int().argmax(dim=1))


def _row(hidden: Tensor, index: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), index].unsqueeze(1)


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": _mean, "first": _first, "last": _last}
"""Name -> function: features (b l d) and their mask (b l) -> (b 1 d)."""
