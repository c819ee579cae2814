"""The inputs of a transformer besides its tokens, and their form in a row of several clips."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from stable_audio.nn.attention import KeyValues
from stable_audio.nn.local import LocalTokens
from stable_audio.nn.packed import PackedRow


@dataclass(frozen=True)
class TransformerInputs:
    """The inputs of a transformer besides x.

    Attributes:
        context: (b m d) for cross-attention.
        kvs: keys and values of each block's cross-attention, from `prepare_context`, instead of `context`.
        context_mask: (b m) bool, the tokens visible to cross-attention; None for all.
        prepend: tokens (b l dim) that go before x.
        global_cond: (b dim), for a modulated transformer.
        local: conditioning of the tokens of x.
        padding_mask: (b n) bool, False = padding in x; None = no padding.
    """

    context: Tensor | None = None
    kvs: tuple[KeyValues | None, ...] | None = None
    context_mask: Tensor | None = None
    prepend: Tensor | None = None
    global_cond: Tensor | None = None
    local: LocalTokens | None = None
    padding_mask: Tensor | None = None

    def with_vectors(self, *, prepend: Tensor | None, global_cond: Tensor | None) -> TransformerInputs:
        """The same with other tokens before x and another global vector."""
        # Spelled out: torch 2.6 does not compile dataclasses.replace.
        return TransformerInputs(
            context=self.context,
            kvs=self.kvs,
            context_mask=self.context_mask,
            prepend=prepend,
            global_cond=global_cond,
            local=self.local,
            padding_mask=self.padding_mask,
        )


def in_order_of(row: PackedRow, inputs: TransformerInputs) -> TransformerInputs:
    """The inputs with an item per clip, in the order of the row's clips."""
    if row.items is None:
        return inputs
    kvs = inputs.kvs
    if kvs is not None:
        kvs = tuple(None if kv is None else kv.index_select(row.items) for kv in kvs)
    return replace(
        inputs,
        kvs=kvs,
        context=row.sorted_items(inputs.context),
        context_mask=row.sorted_items(inputs.context_mask),
        prepend=row.sorted_items(inputs.prepend),
        global_cond=row.sorted_items(inputs.global_cond),
    )


def packed_local(local: LocalTokens, row: PackedRow) -> LocalTokens:
    """The conditioning of the real tokens of all clips, in one row."""

    def real(x: Tensor) -> Tensor:
        return x.flatten(0, 1).index_select(0, row.real).unsqueeze(0)

    joined = None if local.joined is None else real(local.joined)
    by_id = {name: real(x) for name, x in local.by_id.items()}
    return replace(local, joined=joined, by_id=by_id, places=row.out)
