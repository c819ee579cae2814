"""Write JSON, and parse it from files and strings with any fault reported as one sentence.

Files that were edited, downloaded or generated may nest a hundred thousand levels deep, hold numbers of
thousands of digits, or not be JSON at all. Each of these raises a `JsonError`, which is a ValueError.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stable_audio.audio.atomic import atomic_write
from stable_audio.characters import whole

MAX_DEPTH = 100
"""Levels of nested objects and lists: far more than any format needs, far fewer than Python's stack."""

MAX_DIGITS = 300
"""Digits of a whole number; one with more exceeds every float."""


class JsonError(ValueError):
    """Text that cannot be used as JSON.

    Attributes:
        source: name of the text, such as its file.
        reason: what is wrong.
        place: line and column, where known.
    """

    def __init__(self, source: str, reason: str, place: str = "") -> None:
        super().__init__(": ".join(part for part in (source, place, reason) if part))
        self.source = source
        self.reason = reason
        self.place = place

    def __reduce__(self) -> tuple[type[JsonError], tuple[str, str, str]]:
        return type(self), (self.source, self.reason, self.place)


def read_json_value(path: str | os.PathLike[str], **hooks: Any) -> Any:
    """The value that a JSON file holds; a byte order mark is skipped.

    Args:
        hooks: see `parse_json_value`.

    Raises:
        JsonError: the file is not UTF-8 text or not JSON that can be used.
        OSError: it cannot be read.
    """
    return parse_json_value(Path(path).read_bytes(), source=os.fspath(path), **hooks)


def read_json_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Like `read_json_value`, for a file whose root must be an object."""
    return _object(read_json_value(path), os.fspath(path))


def parse_json_value(
    text: str | bytes,
    *,
    source: str,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
    parse_constant: Callable[[str], Any] | None = None,
    parse_int: Callable[[str], Any] | None = None,
    repair: bool = False,
) -> Any:
    """The value of a JSON text. NaN and Infinity, which Python writes, are accepted.

    Args:
        source: name of the text for messages, such as its file.
        object_pairs_hook: as for `json.loads`.
        parse_constant: as for `json.loads`.
        parse_int: as for `json.loads`.
        repair: put U+FFFD in place of halves of surrogate pairs, which texts that were cut can hold.

    Raises:
        JsonError: not UTF-8, not JSON (with line and column), nested over `MAX_DEPTH` levels, or a whole
            number of more than `MAX_DIGITS` digits.
    """
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(
            decoded,
            object_pairs_hook=object_pairs_hook,
            parse_constant=parse_constant,
            parse_int=parse_int or _whole_number,
        )
    except UnicodeDecodeError as error:
        raise JsonError(source, f"is not UTF-8 text: {error}") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise JsonError(source, f"is not JSON: {error.msg}", place) from error
    except RecursionError:
        raise JsonError(source, _TOO_DEEP) from None
    except ValueError as error:
        raise JsonError(source, f"cannot be parsed: {error}") from error
    if nests_too_deep(value):
        raise JsonError(source, _TOO_DEEP)
    return whole(value) if repair and may_hold_halves(decoded) else value


def parse_json_object(
    text: str | bytes, *, source: str, repair: bool = False, **hooks: Any
) -> dict[str, Any]:
    """Like `parse_json_value`, for a text whose root must be an object."""
    return _object(parse_json_value(text, source=source, repair=repair, **hooks), source)


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """As `object_pairs_hook`: refuse an object that has a key twice, of which JSON takes the last."""
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        double = next(key for key in values if keys.count(key) > 1)
        raise ValueError(f"an object has the key '{double}' twice; leave one out")
    return values


def nests_too_deep(value: Any) -> bool:
    """Whether lists, tuples and objects nest deeper than `MAX_DEPTH` levels; a reference cycle counts too."""
    level = [value]
    for _ in range(MAX_DEPTH):
        members = (member for holder in level for member in _members(holder))
        level = list({id(member): member for member in members}.values())
        if not level:
            return False
    return True


def may_hold_halves(text: str) -> bool:
    """Whether a JSON text that was UTF-8 has escapes of surrogates; without them no value has half a pair."""
    return re.search(r"\\u[dD][89a-fA-F]", text) is not None


_TOO_DEEP = f"nests deeper than {MAX_DEPTH} levels, which no file of this kind does"


def _members(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [v for v in value.values() if isinstance(v, (dict, list, tuple))]
    if isinstance(value, (list, tuple)):
        return [v for v in value if isinstance(v, (dict, list, tuple))]
    return []


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"the number {digits[:12]}... has {len(digits)} digits; at most {MAX_DIGITS}")
    return int(digits)


def _object(value: Any, source: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise JsonError(source, f"must hold a JSON object, found {type(value).__name__}")
    return value


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a JSON value as an indented file, completely or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
