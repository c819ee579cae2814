"""adp_cfg_1d, adp_1d and adp_uncond_1d: U-Nets in the layout of audio-diffusion-pytorch 0.0.94."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stable_audio.backbones.adp.base import ADPBackbone, TokenFields
from stable_audio.backbones.adp.layer_inputs import KeysValues
from stable_audio.backbones.adp.options import Options
from stable_audio.backbones.adp.transformer import CrossAttention
from stable_audio.backbones.adp.unet import time_embedding
from stable_audio.nn.precision import parameter_dtype
from stable_audio.options import Flat, takes_keywords
from stable_audio.types import Conditioning, Slot


class ADP1d(ADPBackbone):
    """U-Net without cross-attention, for `adp_1d` and `adp_uncond_1d`.

    All parameters start at half of torch's default. The null conditioning zeroes the global features.

    Args:
        options: see `Options`, whose fields are keywords as well.

    Raises:
        ValueError: lists whose lengths do not fit, widths that do not divide.
    """

    @takes_keywords
    def __init__(self, *, options: Flat[Options]) -> None:
        super().__init__(options)
        self.finish()

    def null(self, cond: Conditioning) -> Conditioning | None:
        """Zeros for the global features; input_concat, which is the material to work on, stays."""
        if Slot.GLOBAL not in self.slots or cond.global_cond is None:
            return None
        return cond.replace(global_cond=torch.zeros_like(cond.global_cond))

    @property
    def droppable(self) -> tuple[Slot, ...]:
        return (Slot.GLOBAL,) if Slot.GLOBAL in self.slots else ()


@dataclass(frozen=True)
class Prepared:
    """Conditioning of cross-attention, computed once per generation.

    Attributes:
        keys_values: keys and values of every cross-attention layer.
        is_null: (b,) bool, items with null conditioning.
        tokens: number of tokens.
    """

    keys_values: tuple[KeysValues, ...]
    is_null: Tensor
    tokens: int


class FixedEmbedding(nn.Module):
    """A learned token per position, the embedding of "no prompt"."""

    def __init__(self, max_length: int, features: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(max_length, features)

    def forward(self, positions: Tensor) -> Tensor:
        """The tokens (l d) at these positions (l)."""
        return self.embedding(positions)


class ADPCfg1d(ADPBackbone):
    """U-Net with cross-attention to tokens and a learned null embedding, for `adp_cfg_1d`.

    The null conditioning replaces all tokens by a learned table (and the time token too, with
    `use_xattn_time`); global features and input_concat stay. Masked tokens get zero keys and values.
    Guidance is rescaled by 0.4 unless the caller says otherwise.

    Args:
        context_embedding_features: features of the tokens.
        context_embedding_max_length: largest number of tokens that the null embedding covers.
        use_xattn_time: add t to the tokens of cross-attention, as the last one.
        options: see `Options`, whose fields are keywords as well.

    Raises:
        ValueError: lists whose lengths do not fit, widths that do not divide.
    """

    default_scale_phi = 0.4

    @takes_keywords
    def __init__(
        self,
        *,
        context_embedding_features: int,
        context_embedding_max_length: int,
        use_xattn_time: bool = False,
        options: Flat[Options],
    ) -> None:
        super().__init__(options, token_features=context_embedding_features)
        self.max_length = context_embedding_max_length
        self.to_time_embedding = (
            time_embedding(options.channels, context_embedding_features) if use_xattn_time else None
        )
        self.fixed_embedding = FixedEmbedding(
            context_embedding_max_length + int(use_xattn_time), context_embedding_features
        )
        self.slot_widths[Slot.CROSS_ATTN] = context_embedding_features
        self.finish()

    def null(self, cond: Conditioning) -> Conditioning | None:
        """The learned embedding in place of the tokens.

        Raises:
            ValueError: more tokens than the embedding covers.
        """
        tokens = cond.cross_attn
        if tokens is None:
            return None
        null_tokens = self._null_tokens(tokens)
        return cond.replace(cross_attn=null_tokens.expand_as(tokens))

    def prepare(self, cond: Conditioning) -> Conditioning:
        """Compute the keys and values of all cross-attention layers, which depend on neither x nor t."""
        return cond.replace(prepared=self._prepare(cond))

    def token_fields(self, t: Tensor, cond: Conditioning, dtype: torch.dtype) -> TokenFields:
        prepared = cond.prepared if isinstance(cond.prepared, Prepared) else self._prepare(cond)
        if self.to_time_embedding is None:
            return None, prepared.keys_values
        token = self.to_time_embedding(t)[:, None].to(dtype)
        position = torch.full((1,), prepared.tokens, device=token.device)
        last = self.fixed_embedding(position).to(dtype)
        return torch.where(prepared.is_null[:, None, None], last, token), prepared.keys_values

    @property
    def read_apart(self) -> Sequence[tuple[nn.Module, str]]:
        """Keys and values of conditioning tokens are computed before the blocks run."""
        return [(layer, "keys_values") for layer in self._cross_attentions()]

    def _cross_attentions(self) -> list[CrossAttention]:
        return [m for m in self.modules() if isinstance(m, CrossAttention)]

    def _prepare(self, cond: Conditioning) -> Prepared:
        if cond.cross_attn is None:
            raise ValueError("adp_cfg_1d needs cross-attention conditioning, but there is none")
        tokens = cond.cross_attn.to(parameter_dtype(self.fixed_embedding))
        layers = self._cross_attentions()
        keys_values = tuple(layer.keys_values(tokens, cond.cross_attn_mask) for layer in layers)
        # The time token of these items must be null as well, as in the published models.
        is_null = (cond.cross_attn == self._null_tokens(cond.cross_attn)).flatten(1).all(dim=1)
        return Prepared(keys_values, is_null, cond.cross_attn.shape[1])

    def _null_tokens(self, tokens: Tensor) -> Tensor:
        if tokens.shape[1] > self.max_length:
            raise ValueError(
                f"the null embedding covers {self.max_length} tokens, but the conditioning has "
                f"{tokens.shape[1]}: raise context_embedding_max_length or shorten the conditioning"
            )
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        return self.fixed_embedding(positions)[None].to(tokens.dtype)
