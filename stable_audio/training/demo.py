"""Demos: sounds that are rendered during training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from stable_audio.data.base import Batch


@dataclass(frozen=True)
class Demo:
    """One rendered sound.

    Attributes:
        name: file name without suffix.
        row: title of its row on the page.
        column: title of its column on the page.
        audio: (c n), not normalised.
    """

    name: str
    row: str
    column: str
    audio: Tensor


class DemoRenderer(Protocol):
    """Renders demos one by one; each kind of training has its own. Subclass it to inherit empty methods.

    Attributes:
        sample_rate: sample rate of the demos in Hz.
        wanted_clips: number of training clips that it shows, those that the run began with.
    """

    sample_rate: int
    wanted_clips: int = 0

    def observe(self, batch: Batch) -> None:
        """Called with each of these clips before the first demo, in the order of the data."""
        return None

    def observed(self) -> Any:
        """What `observe` has kept, for the renderers of other processes."""
        return None

    def adopt(self, observed: Any) -> None:
        """Take what the renderer of another process has observed, in place of one's own."""
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
        """Use `steps` sampling steps from now on, if the demos are sampled; for rehearsals."""
        return None
