"""The mistakes of a configuration file, one Problem each, raised together as one ConfigError."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Loc = tuple[str | int, ...]
"""Keys and list indices that lead from the root of a file to a value."""


LONGEST = 600
"""Maximum characters of a message, since a quoted list may have a million entries."""


@dataclass(frozen=True)
class Problem:
    """One mistake: JSON path and one sentence."""

    path: str
    message: str

    def __str__(self) -> str:
        text = self.message
        if len(text) > LONGEST:
            text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 4 :]}"
        return f"{self.path}: {text}"


class ConfigError(ValueError):
    """A configuration that cannot be used; `problems` holds every mistake that was found in it."""

    def __init__(self, problems: Sequence[Problem], source: str = "config") -> None:
        self.problems = list(problems)
        self.source = source
        super().__init__("\n".join(f"{source}: {p}" for p in self.problems))


def json_path(loc: Iterable[str | int]) -> str:
    """("model", "configs", 0, "a b") -> "$.model.configs[0]['a b']"."""
    return "$" + "".join(_step(part) for part in loc)


def _step(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if re.fullmatch(r"[\w$-]+", part) else f"[{part!r}]"


def value_at(data: Any, loc: Loc) -> Any:
    """The value that `loc` leads to."""
    for part in loc:
        data = data[part]
    return data
