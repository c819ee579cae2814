"""mlp: a conditional multilayer perceptron, for tests and toy data."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from stable_audio.backbones.base import Backbone
from stable_audio.backbones.unet.blocks import resized
from stable_audio.backbones.unet.embedding import TimeEmbedding, TimeOptions
from stable_audio.backbones.unet.layers import ACTIVATIONS, ActivationName
from stable_audio.nn.checkpointing import Checkpointed
from stable_audio.types import Conditioning, Slot

_TIME = TimeOptions()


JoinName = Literal["adaptive", "sum", "concat"]


class _Block(Checkpointed):
    """Norm, merging with the vector, two linear layers, residual: (b n d), (b e) -> (b n d)."""

    vector_layers = ("modulation",)

    def __init__(
        self, width: int, hidden: int, features: int, dropout: float, activation: str, join: JoinName
    ) -> None:
        super().__init__()
        self.join = join
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(features, _MODULATION[join] * width) if join != "concat" else None
        self.layers = nn.Sequential(
            nn.Linear(width + (features if join == "concat" else 0), hidden),
            ACTIVATIONS[activation](),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
        )

    def compute(self, h: Tensor, vector: Tensor) -> Tensor:
        return h + self.layers(self._merge(self.norm(h), vector))

    def _merge(self, h: Tensor, vector: Tensor) -> Tensor:
        if self.modulation is None:
            return torch.cat([h, vector[:, None].expand(-1, h.shape[1], -1)], dim=-1)
        modulation = self.modulation(vector)[:, None]
        if self.join == "sum":
            return h + modulation
        scale, shift = modulation.chunk(2, dim=-1)
        return h * (1 + scale) + shift


_MODULATION = {"adaptive": 2, "sum": 1}


class ConditionalMLP(Backbone):
    """Acts on each position of x (b c n) separately: positions of toy data are independent samples.

    Args:
        io_channels: channels of x, the dimensions of the toy data.
        width: features between blocks.
        hidden: width inside blocks; 4 * width by default.
        depth: residual blocks.
        activation: activation inside blocks.
        dropout: dropout probability inside blocks.
        join: how the vector of t and the global slot acts on the features of every block: `adaptive` scales
            and shifts them, `sum` adds a linear layer of it, `concat` concatenates it.
        time: the embedding of t.
        global_cond_dim: features of the global slot, added to the time vector; its null value is zeros.
        input_concat_dim: channels of the input_concat slot, resized (nearest) to x.
    """

    def __init__(
        self,
        *,
        io_channels: int,
        width: int = 128,
        hidden: int | None = None,
        depth: int = 3,
        activation: ActivationName = "silu",
        dropout: float = 0.0,
        join: JoinName = "adaptive",
        time: TimeOptions = _TIME,
        global_cond_dim: int = 0,
        input_concat_dim: int = 0,
    ) -> None:
        super().__init__()
        if depth < 1 or width < 1:
            raise ValueError(f"depth and width must be at least 1, found {depth} and {width}")
        self.io_channels = io_channels
        if global_cond_dim:
            self.slot_widths[Slot.GLOBAL] = global_cond_dim
        if input_concat_dim:
            self.slot_widths[Slot.INPUT_CONCAT] = input_concat_dim
        self.required_slots = frozenset(self.slot_widths)
        self.time_embedding = TimeEmbedding(time, width)
        features, self.time_steps = self.time_embedding.features, time.steps
        self.to_global = nn.Linear(global_cond_dim, features, bias=False) if global_cond_dim else None
        self.first = nn.Linear(io_channels + input_concat_dim, width)
        self.blocks = nn.ModuleList(
            _Block(width, hidden or 4 * width, features, dropout, activation, join) for _ in range(depth)
        )
        self.last = nn.Linear(width, io_channels)

    def forward(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        vector = self.time_embedding(t, x.dtype)
        if self.to_global is not None:
            vector = vector + self.to_global(self._required(cond, Slot.GLOBAL).to(x.dtype))
        if Slot.INPUT_CONCAT in self.slots:
            concat = resized(self._required(cond, Slot.INPUT_CONCAT), x)
            x = torch.cat([x, concat.to(x.dtype)], dim=1)
        h = self.first(x.transpose(1, 2))
        for block in self.blocks:
            h = block(h, vector)
        return self.last(h).transpose(1, 2).contiguous()

    def null(self, cond: Conditioning) -> Conditioning | None:
        """Zeros for the global slot; input_concat, which is the material to work on, stays."""
        if self.to_global is None or cond.global_cond is None:
            return None
        return cond.replace(global_cond=torch.zeros_like(cond.global_cond))

    @property
    def droppable(self) -> tuple[Slot, ...]:
        return (Slot.GLOBAL,) if self.to_global is not None else ()

    @staticmethod
    def _required(cond: Conditioning, slot: Slot) -> Tensor:
        value = cond.slot(slot)
        if value is None:
            raise ValueError(f"this network reads the slot '{slot.value}', but it is empty")
        return value
