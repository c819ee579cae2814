"""One rendered sound of a running training, and what renders them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class Demo:
    """One sound: file name without suffix, row and column of the page, audio (c n) at true loudness."""

    name: str
    row: str
    column: str
    audio: Tensor


class DemoRenderer(Protocol):
    """Renders demos one by one; each kind of training has its own."""

    sample_rate: int

    def render(self, model: nn.Module) -> Iterator[Demo]:
        """The demos of one step, from a model in eval mode."""
