"""The loss of Stable Audio 3: a mean over items, of which each counts once, whatever its length.

The elements of an item are its signal, which is what is to be generated, and the rest: its padding, and what
inpainting keeps. See docs/training.md for the formulas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LossNormalization = Literal["none", "timestep", "sample", "sample_channel"]

_TINY = 1e-8


@dataclass(frozen=True)
class FrameGroups:
    """Frames by what the loss does with them, each (b 1 n) bool.

    Attributes:
        signal: to be generated.
        rest: weighed by mask_loss_weight beside the signal.
        context: kept by inpainting and no padding.
    """

    signal: Tensor
    rest: Tensor
    context: Tensor

    def item(self, index: int) -> FrameGroups:
        """The groups of one item, as a batch of one."""
        span = slice(index, index + 1)
        return FrameGroups(self.signal[span], self.rest[span], self.context[span])

    @classmethod
    def everything(cls, like: Tensor) -> FrameGroups:
        """All frames of `like` (b c n) are signal."""
        rows = torch.ones_like(like[:, :1], dtype=torch.bool)
        return cls(rows, ~rows, ~rows)


@dataclass(frozen=True)
class ItemMeans:
    """Reduces errors of elements to a loss.

    Attributes:
        rest_weight: weight of the rest.
        apart: whether padding is out of the loss, and what inpainting keeps has its own mean. Otherwise the
            signal and the rest share one weighted mean per item.
        normalization: divide errors of the signal by the variance of their reference: over channels at each
            frame, over the item, over each channel of it, or not at all.
        eps: is added to that variance.
    """

    rest_weight: float = 0.0
    apart: bool = False
    normalization: LossNormalization = "none"
    eps: float = 1e-6

    def normalized(self, errors: Tensor, reference: Tensor, signal: Tensor) -> Tensor:
        """The errors, divided where there is signal.

        Args:
            errors: per element (b c n).
            reference: what was compared with (b c n).
            signal: (b 1 n) bool.
        """
        if self.normalization == "none":
            return errors
        variance = _variance(reference.detach(), signal, self.normalization)
        return torch.where(signal, errors / (variance + self.eps), errors)

    def __call__(self, errors: Tensor, groups: FrameGroups) -> tuple[Tensor, Tensor]:
        """(mean of signal and rest, weighted mean of the context, which is added to it).

        Args:
            errors: normalized ones per element (b c n).
        """
        signal, count = _sums(errors, groups.signal)
        if not self.apart:
            rest, others = _sums(errors, groups.rest)
            total = signal + self.rest_weight * rest
            return (total / (count + self.rest_weight * others + _TINY)).mean(), errors.new_zeros(())
        context, kept = _sums(errors, groups.context)
        weighted = self.rest_weight * (context / (kept + _TINY)).mean()
        return (signal / (count + _TINY)).mean(), weighted

    def parts(self, errors: Tensor, groups: FrameGroups) -> dict[str, Tensor]:
        """Means to be logged: of the signal and of everything else over the batch, of the context over items.

        They are 0 of nothing, and that of the context is 0 where it has no mean of its own in the loss.
        """
        context, kept = _sums(errors, groups.context)
        return {
            "signal": _pooled(errors, groups.signal),
            "masked_loss": _pooled(errors, ~groups.signal),
            "context_loss": (context / (kept + _TINY)).mean() if self.apart else errors.new_zeros(()),
        }


def _sums(errors: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(sum, number) of the elements of each item where the mask is True, (b,) each."""
    weights = mask.expand_as(errors).to(errors.dtype).flatten(1)
    return (errors.flatten(1) * weights).sum(1), weights.sum(1)


def _pooled(errors: Tensor, mask: Tensor) -> Tensor:
    sums, counts = _sums(errors, mask)
    return sums.sum() / counts.sum().clamp(min=1)


def _variance(reference: Tensor, signal: Tensor, normalization: LossNormalization) -> Tensor:
    """Biased variance (1 / n), broadcast over what it was taken of; 1 for an item without signal."""
    if normalization == "timestep":
        return reference.var(1, unbiased=False, keepdim=True)
    axes = [-1] if normalization == "sample_channel" else list(range(1, reference.ndim))
    weights = signal.expand_as(reference).to(reference.dtype)
    count = weights.sum(axes, keepdim=True)
    mean = (reference * weights).sum(axes, keepdim=True) / count.clamp(min=1)
    variance = ((reference - mean).square() * weights).sum(axes, keepdim=True) / count.clamp(min=1)
    return torch.where(count > 0, variance, 1.0)
