"""Long lists in two blocks of memory, which data workers share with the process that has forked them.

Python counts references to an object in the object itself: a worker that reads a text of a list copies the
page of memory that has it. Of a list of a million paths each worker would have a copy of its own, 140 MB,
before it has drawn an eighth of them. Here an item is made anew from its bytes, which nothing writes to,
whenever it is asked for.
"""

from __future__ import annotations

import hashlib
import pickle
import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")
_PAIR = struct.Struct("<qq")


class CompactList(Sequence[T], Generic[T]):
    """A list that does not change, as bytes.

    Args:
        values: the items.
        encode: makes the bytes of an item.
        decode: makes the item of its bytes.
    """

    def __init__(
        self, values: Iterable[T], *, encode: Callable[[T], bytes], decode: Callable[[bytes], T]
    ) -> None:
        content, self._begins = bytearray(), array("q", [0])
        for value in values:
            content += encode(value)
            self._begins.append(len(content))
        self._content, self._decode = bytes(content), decode

    def __len__(self) -> int:
        return len(self._begins) - 1

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        places = range(len(self))[index]
        return self._item(places) if isinstance(places, int) else [self._item(place) for place in places]

    def __iter__(self) -> Iterator[T]:
        return map(self._item, range(len(self)))

    def _item(self, place: int) -> T:
        return self._decode(self._content[self._begins[place] : self._begins[place + 1]])


class CompactMapping(Mapping[str, Any]):
    """Text -> values that can be pickled, in an order of its own; a value is a new one at each look."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        texts = sorted(values, key=_digest)
        self._digests = array("Q", map(_digest, texts))
        self._items = compact_values((text, values[text]) for text in texts)

    def __getitem__(self, key: str) -> Any:
        digest = _digest(key)
        place = bisect_left(self._digests, digest)
        while place < len(self._digests) and self._digests[place] == digest:
            text, value = self._items[place]
            if text == key:
                return value
            place += 1  # two texts may have one digest
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return (text for text, _ in self._items)

    def __len__(self) -> int:
        return len(self._items)


def compact_texts(values: Iterable[str]) -> CompactList[str]:
    """A list of texts, such as paths, also of those whose names are not Unicode."""
    return CompactList(values, encode=_text_bytes, decode=_text_of)


def compact_values(values: Iterable[T]) -> CompactList[T]:
    """A list of values that can be pickled."""
    return CompactList(values, encode=pickle.dumps, decode=pickle.loads)


def compact_pairs(values: Iterable[tuple[int, int]]) -> CompactList[tuple[int, int]]:
    """A list of pairs of numbers."""
    return CompactList(values, encode=_pair_bytes, decode=_pair_of)


# Functions of the module, which a worker that is spawned finds by their names.


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(_text_bytes(text), digest_size=8).digest(), "big")


def _text_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text_of(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")


def _pair_bytes(pair: tuple[int, int]) -> bytes:
    return _PAIR.pack(*pair)


def _pair_of(content: bytes) -> tuple[int, int]:
    first, second = _PAIR.unpack(content)
    return first, second
