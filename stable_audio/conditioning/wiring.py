"""Assign conditioner outputs to the slots of the backbone, by the id lists of a model config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from stable_audio.types import Conditioning, ConditionTensors, Slot


class SlotWiring:
    """Joins conditioner outputs into a `Conditioning`.

    cross_attn and prepend are joined along the sequence (a (b d) tensor is a sequence of one), global
    along features, input_concat and local_add along channels, where a vector is repeated over time. A missing
    mask means that every token is valid. Conditioning of `modular_local_dims` is not joined, and may be
    absent.

    Args:
        cross_attn_ids: conditioners of the cross-attention slot, in order.
        global_ids: conditioners of the global slot, in order.
        prepend_ids: conditioners of the prepend slot, in order.
        input_concat_ids: conditioners of the input_concat slot, in order.
        local_add_ids: conditioners of the local_add slot, in order.
        modular_local_dims: id -> channels of conditioners that the backbone reads one by one.
        vector_ids: ids with one vector per item, (b 1 d) or (b d).
        widths: slot -> features (channels for input_concat and local_add) that the backbone expects; None:
            any number.
    """

    def __init__(
        self,
        *,
        cross_attn_ids: Sequence[str] = (),
        global_ids: Sequence[str] = (),
        prepend_ids: Sequence[str] = (),
        input_concat_ids: Sequence[str] = (),
        local_add_ids: Sequence[str] = (),
        modular_local_dims: Mapping[str, int] | None = None,
        vector_ids: Sequence[str] = (),
        widths: Mapping[Slot, int | None] | None = None,
    ) -> None:
        self.vector_ids, self.widths = frozenset(vector_ids), dict(widths or {})
        self.ids: dict[Slot, tuple[str, ...]] = {
            Slot.CROSS_ATTN: tuple(cross_attn_ids),
            Slot.GLOBAL: tuple(global_ids),
            Slot.PREPEND: tuple(prepend_ids),
            Slot.INPUT_CONCAT: tuple(input_concat_ids),
            Slot.LOCAL_ADD: tuple(local_add_ids),
        }
        self.modular_local_dims = dict(modular_local_dims or {})

    def __call__(self, tensors: ConditionTensors) -> Conditioning:
        """{id: (tensor, mask)} -> Conditioning.

        Raises:
            KeyError: an id of the wiring has no tensor.
            ValueError: tensors that the slot cannot take, with their ids and shapes.
        """
        for slot, ids in self.ids.items():
            if absent := [i for i in ids if i not in tensors]:
                raise KeyError(
                    f"slot '{slot.value}' needs conditioning {absent}, but only {sorted(tensors)} was given"
                )
        cross_attn, cross_attn_mask = self._tokens(Slot.CROSS_ATTN, tensors)
        prepend, prepend_mask = self._tokens(Slot.PREPEND, tensors)
        cond = Conditioning(
            cross_attn=cross_attn,
            cross_attn_mask=cross_attn_mask,
            global_cond=self._vectors(tensors),
            prepend=prepend,
            prepend_mask=prepend_mask,
            input_concat=self._channels(Slot.INPUT_CONCAT, tensors),
            local_add=self._channels(Slot.LOCAL_ADD, tensors),
            modular_local=self._modular(tensors),
        )
        self._check(cond, tensors)
        return cond

    def _check(self, cond: Conditioning, tensors: ConditionTensors) -> None:
        for slot, width in self.widths.items():
            value = cond.slot(slot)
            if value is None or width is None:
                continue
            axis, word = (1, "channels") if slot.has_frames else (-1, "features")
            if value.shape[axis] != width:
                shapes = ", ".join(f"'{i}' {tuple(tensors[i][0].shape)}" for i in self.ids[slot])
                raise ValueError(
                    f"the backbone takes {width} {word} in the slot '{slot.value}', but {shapes} "
                    f"bring {value.shape[axis]}"
                )

    def _tokens(self, slot: Slot, tensors: ConditionTensors) -> tuple[Tensor | None, Tensor | None]:
        inputs = [_as_sequence(*tensors[i]) for i in self.ids[slot]]
        if not inputs:
            return None, None
        return torch.cat([v for v, _ in inputs], dim=1), torch.cat([m for _, m in inputs], dim=1)

    def _vectors(self, tensors: ConditionTensors) -> Tensor | None:
        ids = self.ids[Slot.GLOBAL]
        inputs = [tensors[i][0] for i in ids]
        if not inputs:
            return None
        long = [i for i, v in zip(ids, inputs) if v.ndim == 3 and v.shape[1] != 1]
        if long:
            raise ValueError(f"global conditioning takes one vector per item, but {long} returned sequences")
        return torch.cat([v.squeeze(1) if v.ndim == 3 else v for v in inputs], dim=-1)

    def _modular(self, tensors: ConditionTensors) -> dict[str, Tensor] | None:
        present = [i for i in self.modular_local_dims if i in tensors]
        frames = {i: self._as_frames(i, tensors[i][0]) for i in present}
        wrong = {i: tuple(v.shape) for i, v in frames.items() if v.shape[1] != self.modular_local_dims[i]}
        if wrong:
            raise ValueError(
                f"modular_local_cond_configs gives the channels {self.modular_local_dims}, but the tensors "
                f"have the shapes {wrong}"
            )
        return frames or None

    def _channels(self, slot: Slot, tensors: ConditionTensors) -> Tensor | None:
        frames = [self._as_frames(i, tensors[i][0]) for i in self.ids[slot]]
        if not frames:
            return None
        positions = max((v.shape[2:] for v in frames), key=lambda shape: (len(shape), shape[-1]))
        return torch.cat([_resized(v, positions) for v in frames], dim=1)

    def _as_frames(self, name: str, value: Tensor) -> Tensor:
        """(b d) or (b 1 d) of a vector -> (b d 1); frames (b c n) and pictures (b c h w) are unchanged."""
        if name in self.vector_ids and value.ndim == 3:
            value = value.squeeze(1)
        return value.unsqueeze(-1) if value.ndim == 2 else value


def _resized(value: Tensor, positions: torch.Size) -> Tensor:
    """(b c *n) -> (b c *positions), nearest neighbour; frames are repeated in every row of pictures."""
    if value.ndim - 2 < len(positions):
        value = value.unsqueeze(2)
    if value.shape[2:] == positions:
        return value
    return torch.nn.functional.interpolate(value, size=tuple(positions), mode="nearest")


def _as_sequence(value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    if value.ndim == 2:
        value = value.unsqueeze(1)
        mask = mask.unsqueeze(1) if mask is not None and mask.ndim == 1 else mask
    if mask is None:
        mask = torch.ones(value.shape[:2], dtype=torch.bool, device=value.device)
    return value, mask.bool()
