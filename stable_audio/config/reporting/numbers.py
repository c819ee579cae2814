"""The numbers of a section that are most likely at fault when it cannot be built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stable_audio.config.reporting.problems import Loc, json_path
from stable_audio.wording import excerpt

UNUSUAL = 1_000_000
"""A whole number above this is probably not the size of a layer."""


def suspects(data: Any, count: int = 3) -> str:
    """The whole numbers of a section that are below 1 or very large, with their keys."""
    numbers = [s for s in _sizes(data, ()) if not s[2].startswith("(")]
    below = [s for s in numbers if s[0] < 1]
    above = sorted((s for s in numbers if s[0] > UNUSUAL), key=lambda s: -s[0])
    unusual = [*(s for s in below if s[0] < 0), *above, *(s for s in below if s[0] == 0)][:count]
    return ", ".join(f"{json_path(loc).removeprefix('$.')} {text}" for _, loc, text in unusual)


def largest(data: Any, count: int = 3) -> str:
    """The largest whole numbers and the longest lists of a section, with their keys."""
    sizes = sorted(_sizes(data, ()), key=lambda s: -s[0])[:count]
    return ", ".join(f"{json_path(loc).removeprefix('$.')} {text}" for _, loc, text in sizes)


def values(data: Any, count: int = 6) -> str:
    """The whole numbers and lists of the `config` of a section, with their keys, from its first key on."""
    config = data.get("config", data) if isinstance(data, dict) else data
    listed = {
        key: value
        for key, value in (config.items() if isinstance(config, dict) else ())
        if isinstance(value, (int, list)) and not isinstance(value, bool)
    }
    return ", ".join(f"{key} {excerpt(value, 40)}" for key, value in [*listed.items()][:count])


def _sizes(value: Any, loc: Loc) -> Iterator[tuple[float, Loc, str]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _sizes(part, (*loc, key))
    elif isinstance(value, list):
        yield len(value), loc, f"({len(value)} entries)"
        for index, part in enumerate(value):
            yield from _sizes(part, (*loc, index))
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1:
        yield value, loc, excerpt(value, 24)
