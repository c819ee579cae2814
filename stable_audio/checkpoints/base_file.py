"""The file that a difference adds to: a checkpoint which holds some of a model's weights may name another one
that has the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BaseFile:
    """Where weights are that a file leaves out.

    Attributes:
        path: the file, absolute, or a name beside the file that refers to it or one folder above, or the name
            of a file on the Hugging Face hub.
        hash: of its weights, see `content_hash`.
        use_ema: whether its averaged weights are meant, where it has both.
    """

    path: str
    hash: str
    use_ema: bool = True

    def candidates(self, referring: Path) -> Iterator[Path]:
        """Where it may lie: at its path, or beside the file that refers to it, or one folder above."""
        path, folder = Path(self.path), referring.parent
        places = [path] if path.is_absolute() else []
        yield from (p for p in (*places, folder / path.name, folder.parent / path.name) if p != referring)
