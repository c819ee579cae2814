"""JSON text -> plain data, stricter than the standard library: duplicate keys and NaN are mistakes."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from stable_audio.config.problems import ConfigError, Loc, Problem, json_path


class _Object(dict):
    """An object of the file that remembers the keys it was given twice."""

    repeated: tuple[str, ...] = ()


class _NotJson:
    """NaN, Infinity or -Infinity: Python reads them, JSON does not have them."""

    def __init__(self, name: str) -> None:
        self.name = name


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON file whose root is an object.

    Raises:
        ConfigError: no such file, not text, not JSON (with line and column), duplicate keys, NaN.
    """
    source = os.fspath(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _error(source, f"is not UTF-8 text: {error}") from error
    except OSError as error:
        raise _error(source, f"cannot be read: {error.strerror or error}") from error
    return parse_json(text, source=source)


def parse_json(text: str, *, source: str) -> dict[str, Any]:
    """Parse JSON text whose root is an object; raises like `read_json`."""
    try:
        data = json.loads(text, object_pairs_hook=_object, parse_constant=_NotJson)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise _error(source, f"is not JSON: {error.msg}", place) from error
    except (RecursionError, ValueError) as error:
        raise _error(source, f"cannot be parsed: {error}") from error
    return plain(data, source=source)


def plain(data: Any, *, source: str) -> dict[str, Any]:
    """A copy made of dict, list, str, int, float, bool and None only; the root must be an object.

    Raises:
        ConfigError: everything that JSON cannot hold, with its path.
    """
    problems: list[Problem] = []
    copied = _copy(data, (), problems)
    if not isinstance(data, dict):
        problems.append(Problem("$", f"the file must hold an object, found {type(data).__name__}"))
    if problems:
        raise ConfigError(problems, source)
    return copied


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    made = _Object(pairs)
    seen: set[str] = set()
    made.repeated = tuple(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
    return made


def _copy(value: Any, loc: Loc, problems: list[Problem]) -> Any:
    if isinstance(value, dict):
        for key in getattr(value, "repeated", ()):
            problems.append(Problem(json_path((*loc, key)), "the key appears twice; keep one"))
        return {str(k): _copy(v, (*loc, str(k)), problems) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copy(v, (*loc, i), problems) for i, v in enumerate(value)]
    if isinstance(value, _NotJson) or (isinstance(value, float) and not math.isfinite(value)):
        found = value.name if isinstance(value, _NotJson) else str(value)
        problems.append(Problem(json_path(loc), f"found {found}, which is not a JSON value; give a number"))
        return None
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    problems.append(Problem(json_path(loc), f"found a {type(value).__name__}, which JSON cannot hold"))
    return None


def _error(source: str, message: str, place: str = "$") -> ConfigError:
    return ConfigError([Problem(place, message)], source)
