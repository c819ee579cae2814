"""The scalars, sounds and pictures of a run for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from stable_audio.training.record.loggers.base import RunLogger


class TensorBoardLogger(RunLogger):
    """Event files in `tensorboard/`: scalars, sounds and pictures."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        try:
            self._writer = self._new_writer(self.resumed_at)
        except ImportError as error:
            raise ImportError('--logger tensorboard needs: pip install "stable-audio[train]"') from error

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def audio(self, name: str, audio: Tensor, sample_rate: int, step: int, *, caption: str = "") -> None:
        # TensorBoard plays one channel.
        self._writer.add_audio(name, audio.mean(0, keepdim=True).clamp(-1, 1).cpu(), step, sample_rate)

    def image(self, name: str, path: Path, step: int) -> None:
        self._writer.add_image(name, _pixels(path), step, dataformats="HWC")

    def rewind(self, step: int) -> None:
        self._writer.close()
        self._writer = self._new_writer(step)

    def _new_writer(self, resumed_at: int) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        purge = resumed_at + 1 if resumed_at else None
        return SummaryWriter(str(self.folder / "tensorboard"), purge_step=purge)

    def close(self) -> None:
        self._writer.close()


def _pixels(path: Path) -> Any:
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
