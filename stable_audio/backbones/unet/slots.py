"""The slots of the U-Net: conditioning -> inputs of its mechanisms."""

from __future__ import annotations

from torch import Tensor

from stable_audio.backbones.unet.blocks import resized
from stable_audio.backbones.unet.conditioning import Merge
from stable_audio.backbones.unet.options import ConditioningOptions
from stable_audio.types import Conditioning, Slot


class Slots:
    """Reads and merges the slots of conditioning.

    Args:
        dims: dimensions of the network.
        height: number of rows into which channels are unfolded, with two dimensions.

    Attributes:
        widths: features (channels for input_concat) of every slot in use.
        frame_widths: channels of input_concat by mechanism, `concat` and `sum`.
    """

    def __init__(self, options: ConditioningOptions, *, dims: int, height: int | None) -> None:
        self.dims, self.height = dims, height
        self.merges = {
            Slot.CROSS_ATTN: Merge(options.cross_attn, name="cross_attn", axis=1, width_axis=False),
            Slot.GLOBAL: Merge(options.global_cond, name="global_cond", axis=1, width_axis=True),
            Slot.PREPEND: Merge(options.prepend, name="prepend", axis=1, width_axis=False),
            Slot.INPUT_CONCAT: Merge(options.input_concat, name="input_concat", axis=1, width_axis=True),
        }
        rows = {Slot.INPUT_CONCAT: height or 1}
        self.widths: dict[Slot, int | None] = {
            s: m.width * rows.get(s, 1) for s, m in self.merges.items() if m.width
        }
        frames = self.merges[Slot.INPUT_CONCAT]
        self.frame_widths = {
            kind: sum(w for w, m in zip(frames.widths, frames.mechanisms) if m == kind)
            for kind in ("concat", "sum")
        }

    def value(self, cond: Conditioning, slot: Slot, training: bool) -> Tensor | None:
        """The merged tensor of a slot; None if the network does not use it."""
        if slot not in self.widths:
            return None
        return self.merges[slot](self._required(cond, slot), training)

    def frames(self, cond: Conditioning, x: Tensor, training: bool) -> dict[str, list[Tensor]]:
        """The parts of the input_concat slot by their mechanism, at the positions of x."""
        frames: dict[str, list[Tensor]] = {"concat": [], "sum": []}
        if Slot.INPUT_CONCAT in self.widths:
            merge = self.merges[Slot.INPUT_CONCAT]
            parts = merge.parts(self._required(cond, Slot.INPUT_CONCAT), training)
            for mechanism, part in zip(merge.mechanisms, parts):
                frames[mechanism].append(resized(part, x).to(x.dtype))
        return frames

    def mask(self, slot: Slot, mask: Tensor | None, *, blank: bool) -> Tensor | None:
        """(b l) -> (b 1 1 l). With `blank`, all tokens are visible in items without any valid one."""
        mask = self.merges[slot].mask(mask) if slot in self.widths else None
        if mask is None:
            return None
        if blank:
            mask = mask | ~mask.any(dim=1, keepdim=True)
        return mask[:, None, None, :]

    def unfolded(self, x: Tensor) -> Tensor:
        """x with as many axes as the network has dimensions."""
        if x.ndim == self.dims + 2:
            return x
        if self.dims == 2 and x.ndim == 3 and self.height:
            return x.unflatten(1, (-1, self.height))
        shapes = "(b c n)" if self.dims == 1 else "(b c h w), or (b c * height n) with `height` set"
        raise ValueError(f"a U-Net of {self.dims} dimensions takes {shapes}, found shape {tuple(x.shape)}")

    def _required(self, cond: Conditioning, slot: Slot) -> Tensor:
        value = cond.slot(slot)
        if value is None:
            raise ValueError(f"this U-Net reads the slot '{slot.value}', but it is empty")
        if slot is Slot.INPUT_CONCAT:
            flat = self.dims == 2 and not self.height and value.ndim == 3
            # Frames without rows are repeated in every row.
            value = value.unsqueeze(2) if flat else self.unfolded(value)
        return value
