"""Why something could not be built, in words for people; those of Python and torch are about their own."""

from __future__ import annotations

import re

_INTERNAL = re.compile(
    r"unpack|zip\(\)|not supported between|out of range|object (is not|has no|of type)|unexpected keyword"
    r"|invalid literal|math (domain|range) error|must be real number|unhashable|positional argument"
    r"|not iterable|not callable|subscriptable|NoneType|division (by zero|or modulo)|unsupported operand"
    r"|string to float|(int|float)\(\) argument|cannot be interpreted|either both floats",
    re.IGNORECASE,
)
"""Words of Python, or of torch about its own types, which say nothing about a configuration."""


def reason_for_people(error: Exception) -> str | None:
    """The text of an error, if it was written for people; None if it is about the insides of a program."""
    text = " ".join(str(error).split())
    written = isinstance(error, (ValueError, ImportError, OSError))
    return text if written and text and not _INTERNAL.search(text) else None
