"""The mistakes of a configuration file, one Problem each, raised together as one ConfigError."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Loc = tuple[str | int, ...]
"""Keys and list indices that lead from the root of a file to a value."""


UNNAMED = "config"
"""Name in messages of a configuration that comes from no file."""

LONGEST = 600
"""Maximum characters of a message, since a quoted list may have a million entries."""


@dataclass(frozen=True)
class Problem:
    """One mistake: JSON path, or "" where the file itself is at fault, and one sentence."""

    path: str
    message: str

    def __str__(self) -> str:
        text = self.message
        if len(text) > LONGEST:
            text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 4 :]}"
        return f"{self.path}: {text}" if self.path else text


class ConfigError(ValueError):
    """A configuration that cannot be used; `problems` holds every mistake that was found in it."""

    def __init__(self, problems: Sequence[Problem], source: str = UNNAMED) -> None:
        self.problems = list(problems)
        self.source = source
        super().__init__("\n".join(f"{source}: {p}" for p in self.problems))


@contextmanager
def in_file(name: str) -> Iterator[None]:
    """Context whose errors that begin with a JSON path name the file of that path as well.

    It is for what only shows when the parts of a validated file are built.
    """
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("$"):
            raise
        if isinstance(error, ConfigError):
            raise ConfigError(error.problems, f"{name}: {error.source}") from error
        raise type(error)(f"{name}: {error}") from error


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
