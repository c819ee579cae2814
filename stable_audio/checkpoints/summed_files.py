"""Write the files of a checkpoint in parts, and notice where a disk has changed what was written."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.distributed.checkpoint.filesystem import FileSystem

from stable_audio.checkpoints.checksums import checksum_text, stored_checksum


class SummedFiles(FileSystem):
    """The files that one process writes, with checksums of the bytes from before they are written."""

    def __init__(self) -> None:
        self._facts: dict[str, tuple[int, str]] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        """Open a file for writing, in binary mode."""
        with _SummedFile(path, mode) as stream:
            yield stream
        self._facts[Path(path).name] = (stream.size, checksum_text(stream.checksum))

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        """Rename a file that was written."""
        super().rename(path, new_path)
        self._facts[Path(new_path).name] = self._facts.pop(Path(path).name)

    def verified(self, folder: Path) -> dict[str, tuple[int, str]]:
        """Size and checksum of each file by name, once all were read back from the disk.

        Args:
            folder: where they are.

        Raises:
            OSError: one cannot be read, or does not hold what should have been written.
        """
        for name, (size, checksum) in self._facts.items():
            path = folder / name
            if path.stat().st_size != size or stored_checksum(path) != checksum:
                raise OSError(f"{name} differs from what was written, as after a fault of disk or memory")
        return dict(self._facts)


class _SummedFile(io.FileIO):
    """A file that adds up the checksum of what is written to it.

    Attributes:
        size: bytes written.
        checksum: CRC-32 of them.
    """

    size = 0
    checksum = 0

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        """Write all of `data`, however large; returns the number of its bytes."""
        left = memoryview(data).cast("B")
        total = len(left)
        self.checksum = zlib.crc32(left, self.checksum)
        while left:
            left = left[super().write(left) or 0 :]
        self.size += total
        return total
