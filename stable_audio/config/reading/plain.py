"""JSON text -> plain data, strictly: duplicate keys, NaN and numbers of more than 64 bits are mistakes."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from stable_audio.audio.json_files import MAX_DEPTH, MAX_DIGITS, JsonError, nests_too_deep, parse_json_value
from stable_audio.characters import fault
from stable_audio.config.reporting.problems import ConfigError, Loc, Problem, json_path
from stable_audio.wording import excerpt

LARGEST = 2**63 - 1
"""The largest magnitude of a whole number in a configuration: what 64 bits hold."""


class _Object(dict):
    """A JSON object that remembers which of its keys appear twice."""

    repeated: tuple[str, ...] = ()


class _NotJson:
    """NaN, Infinity or -Infinity: Python reads them, JSON does not have them."""

    def __init__(self, name: str) -> None:
        self.name = name


def _whole_number(digits: str) -> int:
    # Converting millions of digits takes minutes; a power of ten of the same length is refused just as well.
    return int(digits) if len(digits) <= MAX_DIGITS else 10 ** (len(digits) - 1)


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON file whose root is an object.

    Raises:
        ConfigError: no such file, not text, not JSON (with line and column), duplicate keys, NaN.
    """
    source = os.fspath(path)
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise _error(source, f"cannot be read: {error.strerror or error}", "") from error
    return parse_json(text, source=source)


def parse_json(text: str | bytes, *, source: str) -> dict[str, Any]:
    """Parse JSON text whose root is an object; raises like `read_json`."""
    try:
        data = parse_json_value(
            text, source=source, object_pairs_hook=_object, parse_constant=_NotJson, parse_int=_whole_number
        )
    except JsonError as error:
        raise _error(source, error.reason, error.place or "$") from error
    return plain(data, source=source)


def plain(data: Any, *, source: str) -> dict[str, Any]:
    """Copy data into dict, list, str, int, float, bool and None only; the root must be an object.

    Raises:
        ConfigError: everything that JSON cannot hold, with its path.
    """
    if nests_too_deep(data):
        raise _error(source, f"nests deeper than {MAX_DEPTH} levels, which no file of this kind does")
    problems: list[Problem] = []
    copied = _copy(data, (), problems)
    if not isinstance(data, dict):
        problems.append(Problem("$", f"the file must hold an object, found {type(data).__name__}"))
    if problems:
        raise ConfigError(problems, source)
    return copied


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    mapping = _Object(pairs)
    keys: set[str] = set()
    mapping.repeated = tuple(k for k, _ in pairs if k in keys or keys.add(k))  # type: ignore[func-returns-value]
    return mapping


def _copy(value: Any, loc: Loc, problems: list[Problem]) -> Any:
    if isinstance(value, dict):
        for key in getattr(value, "repeated", ()):
            problems.append(Problem(json_path((*loc, key)), "the key appears twice; keep one"))
        for key in value:
            _refuse_halves(str(key), (*loc, str(key)), "its key has", problems)
        return {str(k): _copy(v, (*loc, str(k)), problems) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copy(v, (*loc, i), problems) for i, v in enumerate(value)]
    if isinstance(value, _NotJson) or (isinstance(value, float) and not math.isfinite(value)):
        text = value.name if isinstance(value, _NotJson) else str(value)
        problems.append(Problem(json_path(loc), f"found {text}, which is not a JSON value; give a number"))
        return None
    if isinstance(value, int) and abs(value) > LARGEST:
        text = shown_number(value)
        problems.append(Problem(json_path(loc), f"found {text}; whole numbers go up to {LARGEST}"))
        return None
    if isinstance(value, str):
        _refuse_halves(value, loc, f"found {excerpt(value)} with", problems)
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    problems.append(Problem(json_path(loc), f"found a {type(value).__name__}, which JSON cannot hold"))
    return None


def _refuse_halves(text: str, loc: Loc, found: str, problems: list[Problem]) -> None:
    """Note a text that cannot be encoded."""
    if (half := fault(text)) is not None:
        hint = "write it in UTF-8; a file of such a name needs another, or a link to it"
        problems.append(Problem(json_path(loc), f"{found} {half}; {hint}"))


def shown_number(value: int) -> str:
    """The digits of a whole number, or their count if there are many."""
    digits = int(abs(value).bit_length() * math.log10(2)) + 1
    return str(value) if digits <= 40 else f"a number of about {digits} digits"


def _error(source: str, message: str, place: str = "$") -> ConfigError:
    return ConfigError([Problem(place, message)], source)
