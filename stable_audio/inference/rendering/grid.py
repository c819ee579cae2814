"""Grids: one line of a job file that stands for every combination of some values."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

GRID = "grid"
"""Key of a line that holds its axes."""

MAX_CLIPS = 100_000
"""More combinations than this are a mistake."""

Axes = Mapping[str, list[Any]]


def combinations(line: Mapping[str, Any], keys: Collection[str], source: str) -> Iterator[dict[str, Any]]:
    """The lines that a line with `grid` stands for: the last axis changes fastest.

    An axis named after one of `keys` varies that key, `PART.KEY` the KEY of the object PART, and any other
    name a key of the conditioning.

    Args:
        keys: names that a line can have.
        source: origin of the line, for messages.

    Raises:
        ValueError: with everything that is wrong with the axes.
    """
    axes = _checked(line[GRID], source)
    rest = {key: value for key, value in line.items() if key != GRID}
    places = [_place(name, keys) for name in axes]
    if doubled := [place for place in places if _value_at(rest, place) is not None]:
        raise ValueError(
            f"{source}: {_named(doubled[0])} has a value beside its axis in '{GRID}'; remove one"
        )
    for values in itertools.product(*axes.values()):
        combined = {key: dict(v) if isinstance(v, dict) else v for key, v in rest.items()}
        for place, value in zip(places, values):
            _set(combined, place, value)
        yield combined


def _checked(axes: Any, source: str) -> Axes:
    if not isinstance(axes, dict) or not axes:
        raise ValueError(
            f"{source}: '{GRID}' must be an object of lists such as "
            f'{{"prompt": ["a bell", "a drum"], "cfg_scale": [2, 4]}}, found {axes!r}'
        )
    problems = [problem for name, values in axes.items() if (problem := _problem(name, values))]
    if problems:
        raise ValueError("\n".join(f"{source}: {problem}" for problem in problems))
    if (count := math.prod(map(len, axes.values()))) > MAX_CLIPS:
        raise ValueError(f"{source}: '{GRID}' has {count} combinations; at most {MAX_CLIPS} are possible")
    return axes


def _problem(name: str, values: Any) -> str | None:
    if not isinstance(values, list) or not values:
        return f"'{GRID}.{name}' must be a list of values, found {values!r}"
    texts = [json.dumps(value, sort_keys=True) for value in values]
    twice = next((text for i, text in enumerate(texts) if text in texts[:i]), None)
    return None if twice is None else f"'{GRID}.{name}' has {twice} twice"


def _place(name: str, keys: Collection[str]) -> tuple[str, ...]:
    part, dot, key = name.partition(".")
    if dot and part in keys:
        return part, key
    return (name,) if name in keys else ("conditioning", name)


def _value_at(line: Mapping[str, Any], place: tuple[str, ...]) -> Any:
    value: Any = line
    for key in place:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _set(line: dict[str, Any], place: tuple[str, ...], value: Any) -> None:
    if len(place) == 1:
        line[place[0]] = value
    elif isinstance(line.setdefault(place[0], {}), dict):
        line[place[0]][place[1]] = value


def _named(place: tuple[str, ...]) -> str:
    return f"'{'.'.join(place)}'"
