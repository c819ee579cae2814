"""One rendered sound of a running training, and what renders them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from stable_audio.data.base import Batch


@dataclass(frozen=True)
class Demo:
    """One sound: file name without suffix, row and column of the page, audio (c n) at true loudness."""

    name: str
    row: str
    column: str
    audio: Tensor


class DemoRenderer(Protocol):
    """Renders demos one by one; each kind of training has its own. Subclass it for what does nothing."""

    sample_rate: int

    def see(self, batch: Batch) -> None:
        """A batch that is about to be trained on; some demos are of clips of the run."""
        return None

    def render(self, model: nn.Module) -> Iterator[Demo]:
        """The demos of one step, from a model in eval mode."""
        ...

    def draw(self, folder: Path) -> list[str]:
        """Write further pictures of the demos last rendered into `folder`; returns their names.

        Raises:
            ImportError: the package that draws is not installed.
        """
        return []

    def shorten(self, steps: int) -> None:
        """Sample with `steps` from now on, where the demos are sampled; for rehearsals."""
        return None
