"""Pieces of the DiT that hold no weights of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from stable_audio.backbones.x_transformers import build_x_transformer
from stable_audio.nn.attention import KeyValues
from stable_audio.nn.norms import NormType
from stable_audio.nn.transformer import ContinuousTransformer, TransformerOptions
from stable_audio.types import Slot


@dataclass(frozen=True)
class PreparedDiT:
    """Conditioning after the projections that depend on neither x nor t.

    Attributes:
        context: projected tokens, for transformers that cannot take keys and values.
        kvs: keys and values of each layer's cross-attention.
        mask: (b l) bool, the tokens that cross-attention sees; None for all.
        prepend: projected prepend tokens. global_: projected global vector.
    """

    context: Tensor | None
    kvs: tuple[KeyValues | None, ...] | None
    mask: Tensor | None
    prepend: Tensor | None
    global_: Tensor | None


def _build_continuous(*, options: TransformerOptions, extra: dict[str, Any], **sizes: Any) -> nn.Module:
    if any(extra.values()):
        given = [k for k, v in extra.items() if v]
        raise ValueError(f"{given} apply to transformer_type 'x-transformers' only; remove them")
    return ContinuousTransformer(options=options, **sizes)


TRANSFORMERS: dict[str, Callable[..., nn.Module]] = {
    "continuous_transformer": _build_continuous,
    "x-transformers": build_x_transformer,
}


def patch(x: Tensor, size: int) -> Tensor:
    """(b c (l p)) -> (b l (c p))."""
    if size == 1:
        return x.transpose(1, 2)
    return x.unflatten(-1, (-1, size)).transpose(1, 2).flatten(2)


def unpatch(tokens: Tensor, size: int) -> Tensor:
    """(b l (c p)) -> (b c (l p))."""
    if size == 1:
        return tokens.transpose(1, 2)
    return tokens.unflatten(-1, (-1, size)).transpose(1, 2).flatten(2)


def slot_widths_of(cross_attn: int, global_: int, prepend: int, input_concat: int) -> dict[Slot, int | None]:
    widths = {
        Slot.CROSS_ATTN: cross_attn,
        Slot.GLOBAL: global_,
        Slot.PREPEND: prepend,
        Slot.INPUT_CONCAT: input_concat,
    }
    negative = {s.value: w for s, w in widths.items() if w < 0}
    if negative:
        raise ValueError(f"widths of conditioning must be 0 or more, found {negative}")
    return {s: w for s, w in widths.items() if w}


def norm_type_of(norm_type: NormType, remove_norms: bool) -> NormType:
    if remove_norms and norm_type not in ("layer_norm", "dyt"):
        raise ValueError(f"remove_norms is true, which is norm_type 'dyt', but norm_type is {norm_type!r}")
    return "dyt" if remove_norms else norm_type


def zero_conv(channels: int) -> nn.Conv1d:
    """A 1x1 convolution that starts at zero; it is used beside a residual."""
    conv = nn.Conv1d(channels, channels, 1, bias=False)
    nn.init.zeros_(conv.weight)
    return conv
