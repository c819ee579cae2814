"""The inputs of all layers of the U-Net besides x."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one cross-attention layer, each (b l d)."""


@dataclass(frozen=True)
class LayerInputs:
    """Inputs of the layers in one call.

    Attributes:
        mapping: (b d) time and global features, or None.
        time_token: (b 1 d) last token of cross-attention, or None.
        keys_values: one entry per cross-attention layer, in the order of the modules.
        channels: input_concat per level, (b c n) each, None for levels without.
    """

    mapping: Tensor | None = None
    time_token: Tensor | None = None
    keys_values: tuple[KeysValues, ...] = ()
    channels: tuple[Tensor | None, ...] = field(default=())
