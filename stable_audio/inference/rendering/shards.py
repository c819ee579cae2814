"""Parts of a job that are rendered apart from each other: by hand, on several machines or devices."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from stable_audio.data.world import ALONE, World


@dataclass(frozen=True)
class JobPart:
    """Part `number`, counted from 1, of `count`: every count-th clip, under its name in the whole.

    Raises:
        ValueError: there is no such part.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(
                f"--shard {self.number}/{self.count}: parts are numbered from 1, so that the first is "
                f"1/{max(self.count, 1)} and the last {max(self.count, 1)}/{max(self.count, 1)}"
            )

    @classmethod
    def parse(cls, text: str) -> JobPart:
        """The part that a text such as `2/4` names.

        Raises:
            ValueError: it names none.
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if match is None:
            raise ValueError(f"--shard needs PART/PARTS such as 2/4, the second of four; found '{text}'")
        return cls(int(match[1]), int(match[2]))

    def within(self, world: World = ALONE) -> World:
        """The processes of all parts as one world, of which those of `world` render this part."""
        rank, size = (self.number - 1) * world.size + world.rank, self.count * world.size
        return replace(world, rank=rank, size=size)


def split(world: World, rank: int, size: int) -> World:
    """The place of part `rank` of `size` where a process of `world` is split."""
    return replace(world, rank=world.rank * size + rank, size=world.size * size)
