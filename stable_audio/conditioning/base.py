"""The interface of conditioners: metadata values of one key -> a tensor and its mask."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import chain
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from stable_audio.conditioning.values import AnyValue, ValueRule
from stable_audio.nn.transfer import moved_alone

Layout = Literal["vector", "tokens", "frames"]
"""What a conditioner returns per item: one vector (1 d), a sequence (l d), or channels over time (c n)."""


class FrozenNetwork(Protocol):
    """A network that is loaded when it is first needed.

    Attributes:
        identity: returns what is equal for networks with equal weights, which are in memory once.
        count: returns the number of its parameters, without loading them.
        dtype: type of its weights; None: as stored.
    """

    identity: Callable[[], Hashable]
    count: Callable[[], int]
    dtype: torch.dtype | None


class Conditioner(nn.Module):
    """Base of the conditioners.

    Args:
        dim: features inside the conditioner.
        output_dim: features of its output.
        project_out: whether a linear layer `proj_out` maps one to the other even if they are equal.

    Attributes:
        key: id of the conditioner in its model, for messages; None by itself.
    """

    def __init__(self, *, dim: int, output_dim: int, project_out: bool = False) -> None:
        super().__init__()
        self.key: str | None = None
        self.dim = dim
        self.output_dim = output_dim
        self.proj_out: nn.Module = (
            nn.Linear(dim, output_dim) if dim != output_dim or project_out else nn.Identity()
        )

    @property
    def may_rest(self) -> bool:
        """Whether some of its weights may have no part in the features of a batch."""
        return False

    @property
    def layout(self) -> Layout:
        """Layout of what `forward` returns; by default a sequence, or a vector if it has one token."""
        return "vector" if getattr(self, "max_length", None) == 1 else "tokens"

    def forward(self, values: list[Any], device: torch.device | str) -> tuple[Tensor, Tensor | None]:
        """b values -> (tensor (b l d), (b d) or (b c n); mask (b l) bool with True = valid, or None).

        It must not move weights, which other threads may be using.

        Args:
            device: device of the weights, and so of the inputs; see `device_or`.
        """
        raise NotImplementedError

    def followers(self) -> Sequence[nn.Module]:
        """Networks that move with this module but are no submodules, and so are not in checkpoints."""
        return ()

    def follow(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Apply to the followers what `fn` does to this module's device; they keep their own type."""
        for module in self.followers():
            module._apply(lambda tensor: moved_alone(tensor, fn))

    def frozen_networks(self) -> Sequence[FrozenNetwork]:
        """Frozen networks beside this module, loaded or not, which are no part of checkpoints."""
        return ()

    def text_tokens(self) -> Any:
        """How the texts that it reads become tokens ahead of time, see `TextTokens`; None if they do not."""
        return None

    def device_or(self, default: torch.device | str) -> torch.device:
        """Device of the weights; `default` if there are none or they are not loaded yet."""
        for module in (self, *self.followers()):
            for tensor in chain(module.parameters(), module.buffers()):
                return tensor.device
        return torch.device(default)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Conditioner:
        # `to`, `cuda` and `cpu` call this.
        super()._apply(fn, recurse)
        self.follow(fn)
        return self

    def value_rule(self) -> ValueRule:
        """The rule that values must satisfy; `forward` receives only values that do."""
        return AnyValue()
