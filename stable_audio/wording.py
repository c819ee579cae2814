"""Values and names as error messages show them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any


def nearest(name: Any, known: Iterable[str]) -> str | None:
    """The known name that is most like another one; None where none is like it."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return near[0] if near else None


def hint(name: Any, known: Iterable[str]) -> str:
    """The nearest known name as the end of a sentence, or nothing."""
    near = nearest(name, known)
    return "" if near is None else f"; did you mean '{near}'?"


def shown(value: Any, limit: int = 60) -> str:
    """A value as it stands in the file, cut to `limit` characters."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def names(values: Iterable[Any], limit: int = 24) -> str:
    """'a', 'b', 'c', ... for messages that list what is allowed."""
    quoted = [repr(v) for v in values]
    more = [f"... ({len(quoted) - limit} more)"] if len(quoted) > limit else []
    return ", ".join(quoted[:limit] + more)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest known name as the second half of a sentence, or else the list of known names."""
    known = list(known)
    if (near := nearest(name, known)) is not None:
        return f"did you mean {near!r}?"
    return f"allowed: {names(known)}" if known else "no key is allowed here"
