"""A file inside a file, such as a member of a tar, read in place."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import BinaryIO


@dataclass(frozen=True)
class FileSlice:
    """`size` bytes of `path` from `offset`.

    Attributes:
        name: name in messages; its suffix gives the format.
    """

    path: str
    offset: int
    size: int
    name: str

    def open(self) -> BinaryIO:
        """A seekable reader of these bytes alone. Raises OSError when the file cannot be opened."""
        return io.BufferedReader(_Region(self), buffer_size=1 << 16)

    def open_unbuffered(self) -> BinaryIO:
        """Like `open`, for scattered short reads. Raises OSError when the file cannot be opened."""
        return _Region(self)  # type: ignore[return-value]

    def read(self) -> bytes:
        """All of it. Raises OSError when the file ends early."""
        with self.open() as file:
            content = file.read()
        if len(content) < self.size:
            raise OSError(f"{self.path} ends within {self.name}")
        return content


class SeekableBytes(io.RawIOBase):
    """A seekable raw file; subclasses implement `readinto` and set the attributes.

    Attributes:
        _at: the current position.
        _end: the position after the last byte.
    """

    _at: int
    _end: int

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._end}[whence]
        if base + offset < 0:
            raise ValueError(f"position {base + offset} lies before the beginning")
        self._at = base + offset
        return self._at


class _Region(SeekableBytes):
    def __init__(self, part: FileSlice) -> None:
        self._file = open(part.path, "rb", buffering=0)  # noqa: SIM115  closed in close()
        self._offset, self._end, self._at = part.offset, part.size, 0

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._end - self._at))
        if count == 0:
            return 0
        self._file.seek(self._offset + self._at)
        size = self._file.readinto(memoryview(buffer)[:count]) or 0
        self._at += size
        return size

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
