"""Points between two prompts and between two noises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stable_audio.inference.generation.audio_inputs import conditioning_of_each
from stable_audio.inference.generation.clips import Target
from stable_audio.types import Metadata


@dataclass(frozen=True, kw_only=True)
class Blend:
    """How far clips are on the way to other conditioning or other noise.

    Attributes:
        to_conditioning: conditioning to go to, one dict (or prompt) for all clips or one per clip; absent
            keys are taken from the conditioning.
        to_seeds: seeds of the noise to go to, one per clip or one for all. With the noise of a take at the
            start, clips are variations of it.
        mix: how far, for all clips or for each: 0 = not at all, 1 = all the way. The noise turns by that
            share of a right angle.

    Raises:
        ValueError: a share outside 0 to 1, or one without anything to go to.
    """

    to_conditioning: Metadata | str | Sequence[Metadata | str] | None = None
    to_seeds: int | Sequence[int] | None = None
    mix: float | Sequence[float] = 0.0

    def __post_init__(self) -> None:
        shares = [self.mix] if isinstance(self.mix, (int, float)) else list(self.mix)
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"mix must be from 0 to 1, found {self.mix}")
        if any(shares) and self.to_conditioning is None and self.to_seeds is None:
            raise ValueError("mix needs to_conditioning or to_seeds, which say what to go to")

    def target(self, items: list[Metadata]) -> Target:
        """What each of the clips is led to.

        Args:
            items: conditioning of the clips.

        Raises:
            ValueError: another number of values than of clips.
        """
        count = len(items)
        others = None
        if self.to_conditioning is not None:
            others = conditioning_of_each(self.to_conditioning, items, "to_conditioning")
        seeds = None
        if self.to_seeds is not None:
            seeds = [self.to_seeds] * count if isinstance(self.to_seeds, int) else list(self.to_seeds)
            _check(len(seeds), count, "to_seeds")
        shares = [float(self.mix)] * count if isinstance(self.mix, (int, float)) else [*map(float, self.mix)]
        _check(len(shares), count, "mix")
        return Target(items=others, seeds=seeds, shares=shares)


def _check(found: int, count: int, what: str) -> None:
    if found != count:
        raise ValueError(f"{what}: found {found} values for {count} clips")
