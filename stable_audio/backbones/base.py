"""The interface of backbones, the networks that are called at every step of training and sampling."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from stable_audio.nn.checkpointing import Checkpointed, Recomputation, set_gradient_checkpointing
from stable_audio.nn.matrices import hidden_matrices
from stable_audio.types import Conditioning, Slot


class Backbone(nn.Module):
    """Base of the networks (x, t, conditioning) -> output.

    Attributes:
        io_channels: channels of x and of the output (they differ only by input_concat, which is a slot).
        length_multiple: n must be a multiple of this.
        slot_widths: slots of this instance -> required features (channels for input_concat) of the
            conditioning; None: any width.
        global_widths: conditioner id -> features, in order, if the backbone splits the global slot by id.
        required_slots: the slots without which `forward` cannot run.
        time_steps: number of discrete steps of the network, which rounds t (time_steps - 1). None: t is
            continuous.
        default_scale_phi: CFG rescale used when the caller names none.
        masks_attention: whether a mask hides tokens from attention. If so, a negative prompt needs its own
            mask; otherwise it takes the positions of the positive one.
        masks_padding: whether `Conditioning.padding_mask` has an effect.
        modular_local_dims: id -> channels of the conditioning in `Conditioning.modular_local`.
        gradient_checkpointing: what the backward pass recomputes; never used under no_grad.
    """

    io_channels: int
    length_multiple: int = 1
    time_steps: int | None = None
    default_scale_phi: float = 0.0
    masks_attention: bool = False
    masks_padding: bool = False
    gradient_checkpointing: Recomputation = False

    def __init__(self) -> None:
        super().__init__()
        self.slot_widths: dict[Slot, int | None] = {}
        self.global_widths: dict[str, int] = {}
        self.modular_local_dims: dict[str, int] = {}
        self.required_slots: frozenset[Slot] = frozenset()

    @property
    def slots(self) -> frozenset[Slot]:
        """The slots that this instance reads."""
        return frozenset(self.slot_widths)

    @property
    def units(self) -> Sequence[nn.Module]:
        """The modules that hold most of the weights and are called one by one, each once in a forward pass.

        Their weights can be gathered for the call alone, so nothing reads them but the block's own `forward`
        and the methods of `read_apart`.
        """
        outer: list[Checkpointed] = []
        for module in self.modules():
            if isinstance(module, Checkpointed) and not any(module in set(o.modules()) for o in outer):
                outer.append(module)
        return [block for module in outer for block in module.units]

    @property
    def repeated(self) -> Sequence[nn.Module]:
        """Blocks of one kind that run one after another, on inputs of the same shapes; empty without such.

        What is compiled for one of them serves all (`nn.compiling`).
        """
        return ()

    @property
    def read_apart(self) -> Sequence[tuple[nn.Module, str]]:
        """(module, method) of blocks, or of parts of them, whose weights the method reads although their
        block is not being called: where conditioning becomes keys and values before all blocks run.

        `forward` is the method of a part that is called as a module.
        """
        return ()

    def forward(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """x (b c n) at times t (b,) float32 in [0, 1] -> output (b c n)."""
        raise NotImplementedError

    @property
    def may_rest(self) -> bool:
        """Whether layers have no part in a batch that lacks conditioning which is not required."""
        return bool(self.modular_local_dims)

    @property
    def packing_obstacles(self) -> tuple[str, ...]:
        """The reasons why clips of different lengths cannot share a row; empty if `forward_packed` works."""
        return (f"the backbone {type(self).__name__}",)

    def forward_packed(self, x: Tensor, t: Tensor, cond: Conditioning, lengths: Sequence[int]) -> Tensor:
        """Like `forward` on each clip x[i, :, :lengths[i]] by itself, without computing the padding.

        Args:
            lengths: frames of each clip, multiples of `length_multiple`.

        Returns:
            (b c n), with zeros in the padding.

        Raises:
            ValueError: `packing_obstacles` is not empty, or the lengths do not fit.
        """
        raise ValueError(f"clips cannot share a row with {', '.join(self.packing_obstacles)}")

    def null(self, cond: Conditioning) -> Conditioning | None:
        """The unconditional branch of `cond`; None if this backbone has nothing to drop."""
        raise NotImplementedError

    def drop(self, cond: Conditioning, keep: dict[Slot, Tensor]) -> Conditioning:
        """Replace slots of single items by their null value, for classifier-free guidance training.

        Args:
            keep: slot -> (b,) bool, False = replace that item by the null conditioning. Slots absent from
                `cond` are skipped.
        """
        null = self.null(cond)
        if null is None:
            return cond
        changes: dict[str, Tensor] = {}
        for slot, keep_items in keep.items():
            value, null_value = cond.slot(slot), null.slot(slot)
            if value is None or null_value is None:
                continue
            changes[slot.field] = value.where(keep_items.view(-1, *([1] * (value.ndim - 1))), null_value)
        return cond.replace(**changes)

    @property
    def droppable(self) -> tuple[Slot, ...]:
        """Slots that training drops independently, in the order of their random draws."""
        return tuple(s for s in (Slot.CROSS_ATTN, Slot.PREPEND) if s in self.slot_widths)

    def prepare(self, cond: Conditioning) -> Conditioning:
        """Compute once per generation what depends on neither x nor t. The result replaces `cond`."""
        return cond

    def enable_gradient_checkpointing(self, what: Recomputation = True) -> None:
        """Trade compute for memory in training, see `set_gradient_checkpointing`.

        Raises:
            ValueError: n is below 1, or another word than "elementwise".
        """
        set_gradient_checkpointing(self, what)
        self.gradient_checkpointing = what

    def hidden_matrices(self) -> dict[nn.Parameter, int]:
        """Trained weights that are matrices between hidden features -> how many of them each stacks, for
        optimizers that step on these otherwise than on gains, biases, and the layers where features come in
        or go out."""
        return hidden_matrices(self)
