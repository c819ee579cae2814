"""Updates of one weight: a low-rank term, free or within the singular vectors of the weight, and rescaling.

LoRA (Hu et al. 2021): W + alpha / rank B A. LoRA-XS (Balazy et al. 2024): W + alpha / rank U M V^T, where U
and V are the first singular vectors of W and only M is trained. `rescaling` has the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.adapters.rescaling import BothRescaling, ColumnRescaling, Rescaling, RowRescaling

FeatureMask = Callable[[Tensor, float], Tensor]
"""(ones (1, in), probability) -> factors of the input features of `lora_A`, which dropout draws."""


def drop_features(ones: Tensor, probability: float) -> Tensor:
    """Zero with a probability, else the inverse of the other probability."""
    return F.dropout(ones, probability)


class WeightUpdate(nn.Module):
    """The update of one weight; its parameters are float32.

    Args:
        weight: the weight without adapters (out, in), which the first values of the parameters depend on.
        rank: at most.
        scaling: factor of the low-rank term.
        rescaling: what follows it.
        dropout: for low-rank terms with free input features.
        feature_mask: draws of dropout.

    Attributes:
        strength: multiplies the low-rank term; at 0 the weight is left as it is.
        enabled: False leaves the weight as it is.
        by_activations: compute the output of the layer without its updated weight, see `activations`; for
            training, where that weight would be made and kept at every step.
    """

    term_parameters: ClassVar[tuple[str, ...]] = ()
    own_type: ClassVar[bool] = True
    """See `stable_audio.nn.precision.parameter_dtype`."""
    row_squares: Tensor | None
    column_squares: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        *,
        rank: int,
        scaling: float,
        rescaling: Rescaling,
        dropout: float = 0.0,
        feature_mask: FeatureMask = drop_features,
    ) -> None:
        super().__init__()
        self.strength, self.enabled, self.by_activations = 1.0, True, False
        self.scaling, self.rescaling = scaling, rescaling
        self.dropout, self.feature_mask = dropout, feature_mask
        weight = weight.detach().float()
        self._add_term(weight, rank)
        self.register_buffer("row_squares", None, persistent=False)
        self.register_buffer("column_squares", None, persistent=False)
        for name, value in rescaling.initial(weight).items():
            self.register_parameter(name, nn.Parameter(value))

    @property
    def active(self) -> bool:
        """Whether the weight is changed at all."""
        return self.enabled and self.strength != 0

    def forward(self, weight: Tensor) -> Tensor:
        """(out, in) -> the updated weight, of the same type."""
        if not self.active:
            return weight
        updated = weight.float() + (self.scaling * self.strength) * self.term()
        vectors = {name: getattr(self, name) for name in self.rescaling.axes}
        return self.rescaling(updated, vectors).to(weight.dtype)

    def term(self) -> Tensor:
        """The low-rank term (out, in), without factors."""
        left, right = self.factors()
        return left @ right

    def factors(self) -> tuple[Tensor, Tensor]:
        """The matrices (out, rank) and (rank, in) whose product is the term."""
        raise NotImplementedError

    @torch.no_grad()
    def compute_by_activations(self, weight: Tensor) -> None:
        """From now on; `weight` (out, in) is the frozen one, sums of whose squares are kept."""
        self.by_activations = True
        squares = weight.detach().float().square()
        if 1 in self.rescaling.axes.values():
            self.row_squares = squares.sum(1)
        if 0 in self.rescaling.axes.values():
            self.column_squares = squares.sum(0)

    @torch.no_grad()
    def restart_norms(self, weight: Tensor) -> None:
        """Set the vectors of norms to those of another weight (out, in), which is then left as it is."""
        for name, value in self.rescaling.initial(weight.detach().float()).items():
            getattr(self, name).copy_(value)

    def _add_term(self, weight: Tensor, rank: int) -> None:
        raise NotImplementedError


def state_of(weights: Iterable[Tensor], updates: Iterable[Any]) -> tuple[Any, ...]:
    """What is equal as long as nothing has changed that weights with updates are computed from."""
    # Not parameters() and buffers(), which would take longer than a small layer.
    tensors = [
        *weights,
        *(t for u in updates for t in (*u._parameters.values(), *u._buffers.values()) if t is not None),
    ]
    versions = [(id(t), t.data_ptr(), t.dtype, 0 if t.is_inference() else t._version) for t in tensors]
    return (*versions, *((u.strength, u.scaling) for u in updates))


class LowRankUpdate(WeightUpdate):
    """B A with any A (rank, in) and B (out, rank), which starts at 0."""

    term_parameters: ClassVar[tuple[str, ...]] = ("lora_A", "lora_B")

    def _add_term(self, weight: Tensor, rank: int) -> None:
        outputs, inputs = weight.shape
        self.lora_A = nn.Parameter(weight.new_empty(rank, inputs))
        self.lora_B = nn.Parameter(weight.new_zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def factors(self) -> tuple[Tensor, Tensor]:
        if not (self.training and self.dropout > 0):
            return self.lora_B, self.lora_A
        ones = self.lora_A.new_ones(1, self.lora_A.shape[1])
        return self.lora_B, self.lora_A * self.feature_mask(ones, self.dropout)


class SubspaceUpdate(WeightUpdate):
    """U M V^T within the first singular vectors of the weight; M (rank, rank) starts at 0.

    A weight with fewer singular vectors than `rank` has an M of that many. Dropout does not apply.
    """

    term_parameters: ClassVar[tuple[str, ...]] = ("M_xs",)
    U: Tensor
    V: Tensor

    def _add_term(self, weight: Tensor, rank: int) -> None:
        u, v = singular_vectors(weight, min(rank, *weight.shape))
        # Not among the weights of a checkpoint: the weight itself has them.
        self.register_buffer("U", u, persistent=False)
        self.register_buffer("V", v, persistent=False)
        self.M_xs = nn.Parameter(weight.new_zeros(u.shape[1], u.shape[1]))

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.U, self.M_xs @ self.V.T


def singular_vectors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The first left (out, rank) and right (in, rank) singular vectors of a weight.

    In float32 on the CPU; each pair has the sign with which the entry of greatest magnitude of the left one
    is positive.
    """
    if weight.is_meta:
        return weight.new_empty(weight.shape[0], rank), weight.new_empty(weight.shape[1], rank)
    u, _, vh = torch.linalg.svd(weight.detach().float().cpu(), full_matrices=False)
    u, v = u[:, :rank], vh[:rank].T
    greatest = u.gather(0, u.abs().argmax(0, keepdim=True))
    signs = torch.where(greatest < 0, -1.0, 1.0)
    return (u * signs).contiguous().to(weight.device), (v * signs).contiguous().to(weight.device)


@dataclass(frozen=True)
class AdapterType:
    """What the updates of an adapter are made of."""

    update: type[WeightUpdate]
    rescaling: type[Rescaling]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the trained tensors of one layer."""
        return (*self.update.term_parameters, *self.rescaling.axes)


ADAPTER_TYPES: dict[str, AdapterType] = {
    "lora": AdapterType(LowRankUpdate, Rescaling),
    "dora-rows": AdapterType(LowRankUpdate, RowRescaling),
    "dora-cols": AdapterType(LowRankUpdate, ColumnRescaling),
    "bora": AdapterType(LowRankUpdate, BothRescaling),
    "lora-xs": AdapterType(SubspaceUpdate, Rescaling),
    "dora-rows-xs": AdapterType(SubspaceUpdate, RowRescaling),
    "dora-cols-xs": AdapterType(SubspaceUpdate, ColumnRescaling),
    "bora-xs": AdapterType(SubspaceUpdate, BothRescaling),
}
"""Name in files -> type."""


def _old_dora(magnitude: Sequence[int] | None) -> str:
    """The old type `dora`, whose vectors of norms had two axes: columns where the first has length 1."""
    return "dora-cols" if magnitude is not None and len(magnitude) == 2 and magnitude[0] == 1 else "dora-rows"


LEGACY_TYPES: Mapping[str, Callable[[Sequence[int] | None], str]] = {"dora": _old_dora}
"""Name in old files -> function of the shape of the first `magnitude` -> type."""

PARAMETERS = tuple(dict.fromkeys(name for t in ADAPTER_TYPES.values() for name in t.parameters))
"""Names of the trained tensors of all types."""
