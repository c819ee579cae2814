"""Several loggers as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from stable_audio.training.record.loggers.base import RunLogger


class SeveralLoggers(RunLogger):
    """Passes everything on to each of `members`."""

    def __init__(self, members: Sequence[RunLogger]) -> None:
        self.members = tuple(members)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for member in self.members:
            member.scalars(values, step)

    def audio(self, name: str, audio: Tensor, sample_rate: int, step: int, *, caption: str = "") -> None:
        for member in self.members:
            member.audio(name, audio, sample_rate, step, caption=caption)

    def image(self, name: str, path: Path, step: int) -> None:
        for member in self.members:
            member.image(name, path, step)

    def rewind(self, step: int) -> None:
        for member in self.members:
            member.rewind(step)

    def close(self) -> None:
        for member in self.members:
            member.close()
