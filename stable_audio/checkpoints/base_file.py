"""The file that a difference adds to: a checkpoint which holds some of a model's weights may name another one
that has the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stable_audio.stored.shards_folder import is_shards


@dataclass(frozen=True)
class BaseFile:
    """Where weights are that a file leaves out.

    Attributes:
        path: the file or the folder with a checkpoint in parts, absolute, or a name beside the file that
            refers to it or one folder above, or the name of a file on the Hugging Face hub.
        hash: of its weights, see `content_hash`.
        use_ema: whether its averaged weights are meant, where it has both.
    """

    path: str
    hash: str
    use_ema: bool = True

    def candidates(self, referring: Path) -> Iterator[Path]:
        """Where it is: at its path, or beside the file that refers to it, or one folder above."""
        path, folder = Path(self.path), referring.parent
        places = [path] if path.is_absolute() else []
        for place in (*places, folder / path.name, folder.parent / path.name):
            if place != referring and (place.is_file() or is_shards(place)):
                yield place
