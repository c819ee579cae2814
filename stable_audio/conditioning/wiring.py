"""Conditioner ids -> slots of the backbone, as the id lists of a model config say."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stable_audio.types import Conditioning, ConditionTensors, Slot


class SlotWiring:
    """Joins conditioner outputs into a `Conditioning`.

    cross_attn and prepend are joined along the sequence (a (b d) tensor is a sequence of one), global
    along features, input_concat along channels. A missing mask means that every token is valid.

    Args:
        cross_attn_ids, global_ids, prepend_ids, input_concat_ids: conditioner ids per slot, in order.
    """

    def __init__(
        self,
        *,
        cross_attn_ids: Sequence[str] = (),
        global_ids: Sequence[str] = (),
        prepend_ids: Sequence[str] = (),
        input_concat_ids: Sequence[str] = (),
    ) -> None:
        self.ids: dict[Slot, tuple[str, ...]] = {
            Slot.CROSS_ATTN: tuple(cross_attn_ids),
            Slot.GLOBAL: tuple(global_ids),
            Slot.PREPEND: tuple(prepend_ids),
            Slot.INPUT_CONCAT: tuple(input_concat_ids),
        }

    def __call__(self, tensors: ConditionTensors) -> Conditioning:
        """{id: (tensor, mask)} -> Conditioning.

        Raises:
            KeyError: an id of the wiring has no tensor.
        """
        cross_attn, cross_attn_mask = self._tokens(Slot.CROSS_ATTN, tensors)
        prepend, prepend_mask = self._tokens(Slot.PREPEND, tensors)
        return Conditioning(
            cross_attn=cross_attn,
            cross_attn_mask=cross_attn_mask,
            global_=self._vectors(tensors),
            prepend=prepend,
            prepend_mask=prepend_mask,
            input_concat=self._channels(tensors),
        )

    def _pick(self, slot: Slot, tensors: ConditionTensors) -> list[tuple[Tensor, Tensor | None]]:
        missing = [i for i in self.ids[slot] if i not in tensors]
        if missing:
            raise KeyError(
                f"slot '{slot.value}' needs conditioning {missing}, but only {sorted(tensors)} was given"
            )
        return [tensors[i] for i in self.ids[slot]]

    def _tokens(self, slot: Slot, tensors: ConditionTensors) -> tuple[Tensor | None, Tensor | None]:
        picked = [_as_sequence(value, mask) for value, mask in self._pick(slot, tensors)]
        if not picked:
            return None, None
        return torch.cat([v for v, _ in picked], dim=1), torch.cat([m for _, m in picked], dim=1)

    def _vectors(self, tensors: ConditionTensors) -> Tensor | None:
        picked = [value for value, _ in self._pick(Slot.GLOBAL, tensors)]
        if not picked:
            return None
        long = [i for i, v in zip(self.ids[Slot.GLOBAL], picked) if v.ndim == 3 and v.shape[1] != 1]
        if long:
            raise ValueError(f"global conditioning takes one vector per item, but {long} returned sequences")
        return torch.cat([v.squeeze(1) if v.ndim == 3 else v for v in picked], dim=-1)

    def _channels(self, tensors: ConditionTensors) -> Tensor | None:
        picked = [value for value, _ in self._pick(Slot.INPUT_CONCAT, tensors)]
        if not picked:
            return None
        longest = max(v.shape[-1] for v in picked)
        resized = [v if v.shape[-1] == longest else _nearest(v, longest) for v in picked]
        return torch.cat(resized, dim=1)


def _nearest(value: Tensor, length: int) -> Tensor:
    return torch.nn.functional.interpolate(value, size=length, mode="nearest")


def _as_sequence(value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    if value.ndim == 2:
        value = value.unsqueeze(1)
        mask = mask.unsqueeze(1) if mask is not None and mask.ndim == 1 else mask
    if mask is None:
        mask = torch.ones(value.shape[:2], dtype=torch.bool, device=value.device)
    return value, mask.bool()
