"""The loss of autoencoders: what its terms compare, and their sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.nn.terms import Term, weighted_sum

Values = Mapping[str, Tensor]
"""Results of a training step by name: reals, decoded, latents, kl, ..."""


@dataclass
class Terms:
    """A list of terms; decayed weights are its only state."""

    terms: list[Term[Values]] = field(default_factory=list)

    def __call__(self, values: Values) -> tuple[Tensor, dict[str, Tensor]]:
        """(sum, each term by name); terms of weight 0 are not computed, but reported as 0."""
        if not self.terms:
            raise ValueError("no loss is configured: give at least one section of loss_configs")
        used = [term for term in self.terms if term.weight]
        total, raw = weighted_sum(used, values)
        device = next(iter(values.values())).device
        return total.to(device), {
            term.name: term.weight * raw[term.name] if term.name in raw else torch.zeros(())
            for term in self.terms
        }

    def compared(self) -> set[str]:
        """Names of the values that `Pair` terms compare."""
        pairs = [t.loss for t in self.terms if isinstance(t.loss, Pair)]
        return {name for pair in pairs for name in (pair.first, pair.second)}

    def networks(self) -> list[nn.Module]:
        """The modules among the losses, whose buffers have to follow the data to its device."""
        losses = [t.loss.loss if isinstance(t.loss, Pair) else t.loss for t in self.terms]
        return [loss for loss in losses if isinstance(loss, nn.Module)]

    def state_dict(self) -> dict[str, float]:
        return {t.name: t.weight for t in self.terms}

    def load_state_dict(self, state: dict[str, float]) -> None:
        for term in self.terms:
            term.weight = state.get(term.name, term.weight)


@dataclass(frozen=True)
class Pair:
    """A loss of two named values; the longer one is cut at the end."""

    loss: Callable[[Tensor, Tensor], Tensor]
    first: str
    second: str

    def __call__(self, values: Values) -> Tensor:
        x, y = values[self.first], values[self.second]
        n = min(x.shape[-1], y.shape[-1])
        return self.loss(x[..., :n], y[..., :n])


class OneChannel(nn.Module):
    """A loss of channel `index` alone; several instances may share the loss."""

    def __init__(self, loss: nn.Module, index: int) -> None:
        super().__init__()
        self.loss, self.index = loss, index

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x, y (b c n) -> scalar."""
        channel = slice(self.index, self.index + 1)
        return self.loss(x[:, channel], y[:, channel])


def loss_name(name: str) -> str:
    """What a loss that a bottleneck calls `name` is logged as."""
    return f"{name.removesuffix('_loss')}_loss"


def value(name: str) -> Callable[[Values], Tensor]:
    """A term whose loss is the value `name`; 0 if it was not computed."""

    def of(values: Values) -> Tensor:
        return values[name] if name in values else torch.zeros(())

    return of


def masked(loss: Callable[..., Tensor], x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of an elementwise loss over the samples where `mask` (b n) is true, in every channel."""
    if mask is None:
        return loss(x, y)
    valid = mask.bool()[:, None].expand_as(x)
    return loss(x[valid], y[valid])


def l1(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute difference."""
    return masked(F.l1_loss, x, y, mask)


def mse(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference."""
    return masked(F.mse_loss, x, y, mask)
