"""What every backbone offers: the network that is called at every step of training and sampling."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from stable_audio.nn.checkpointing import set_gradient_checkpointing
from stable_audio.types import Conditioning, Slot


class Backbone(nn.Module):
    """Base of the networks (x, t, conditioning) -> output.

    Attributes:
        io_channels: channels of x and of the output (they differ only by input_concat, which is a slot).
        length_multiple: n must be a multiple of it.
        slot_widths: the slots served by this instance -> features (channels for input_concat) that the
            conditioning must have; None where any width is accepted.
        global_widths: conditioner id -> features, in order, where the global slot is told apart by id.
        required_slots: the slots without which `forward` cannot run.
        time_steps: how many integer steps of noise the network counts: it rounds t (time_steps - 1). None =
            t may be any number.
        default_scale_phi: CFG rescale used when the caller names none.
        masks_attention: tokens that a mask excludes are hidden from attention, so that a negative prompt
            needs its own mask; otherwise it is laid over the positions of the positive one.
        gradient_checkpointing: recompute activations in the backward pass; never used under no_grad.
    """

    io_channels: int
    length_multiple: int = 1
    time_steps: int | None = None
    default_scale_phi: float = 0.0
    masks_attention: bool = False
    gradient_checkpointing: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.slot_widths: dict[Slot, int | None] = {}
        self.global_widths: dict[str, int] = {}
        self.required_slots: frozenset[Slot] = frozenset()

    @property
    def slots(self) -> frozenset[Slot]:
        """The slots that this instance reads."""
        return frozenset(self.slot_widths)

    def forward(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """x (b c n) at times t (b,) float32 in [0, 1] -> output (b c n)."""
        raise NotImplementedError

    @property
    def packing_obstacles(self) -> tuple[str, ...]:
        """What keeps clips of different length from sharing a row; empty where `forward_packed` works."""
        return (f"the backbone {type(self).__name__}",)

    def forward_packed(self, x: Tensor, t: Tensor, cond: Conditioning, lengths: Sequence[int]) -> Tensor:
        """As `forward` for every clip x[i, :, :lengths[i]] alone, without computing the padding behind it.

        Args:
            lengths: frames of each clip, multiples of `length_multiple`.

        Returns:
            (b c n), zeros where there is padding.

        Raises:
            ValueError: `packing_obstacles` is not empty, or the lengths do not fit.
        """
        raise ValueError(f"clips cannot share a row with {', '.join(self.packing_obstacles)}")

    def null(self, cond: Conditioning) -> Conditioning | None:
        """The unconditional branch of `cond`; None when this backbone has nothing to leave out."""
        raise NotImplementedError

    def drop(self, cond: Conditioning, keep: dict[Slot, Tensor]) -> Conditioning:
        """Replace slots of single items by their null value, for classifier-free guidance training.

        Args:
            keep: slot -> (b,) bool, False = replace that item by the null conditioning. Slots that are
                absent from `cond` are skipped.
        """
        null = self.null(cond)
        if null is None:
            return cond
        changes: dict[str, Tensor] = {}
        for slot, kept in keep.items():
            value, other = cond.slot(slot), null.slot(slot)
            if value is None or other is None:
                continue
            changes[slot.field] = value.where(kept.view(-1, *([1] * (value.ndim - 1))), other)
        return cond.replace(**changes)

    @property
    def droppable(self) -> tuple[Slot, ...]:
        """Slots that training drops independently, in the order in which their draws are made."""
        return tuple(s for s in (Slot.CROSS_ATTN, Slot.PREPEND) if s in self.slots)

    def prepare(self, cond: Conditioning) -> Conditioning:
        """Do once per generation what depends on neither x nor t. The result replaces `cond`."""
        return cond

    def enable_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Trade compute for memory in training, in every block that can be computed again."""
        self.gradient_checkpointing = enabled
        set_gradient_checkpointing(self, enabled)
