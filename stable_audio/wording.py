"""Format values and names for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from stable_audio.characters import readable_json

SIMILAR = 0.75
"""Least similarity of a name that may be meant: names that merely contain each other are different things."""


def nearest(name: Any, candidates: Iterable[str]) -> str | None:
    """The candidate most similar to `name`; None if none is similar."""
    match = difflib.get_close_matches(str(name), list(candidates), n=1, cutoff=SIMILAR)
    return match[0] if match else None


def hint(name: Any, candidates: Iterable[str]) -> str:
    """The end of a sentence that suggests the nearest candidate; empty if none is similar."""
    match = nearest(name, candidates)
    return "" if match is None else f"; did you mean '{match}'?"


def excerpt(value: Any, limit: int = 60) -> str:
    """A value as JSON, cut to `limit` characters."""
    text = readable_json(value, default=repr)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def names(values: Iterable[Any], limit: int = 24) -> str:
    """List values as 'a', 'b', 'c', ..., cut to `limit` of them."""
    quoted = [repr(v) for v in values]
    more = [f"... ({len(quoted) - limit} more)"] if len(quoted) > limit else []
    return ", ".join(quoted[:limit] + more)


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """The second half of a sentence: the nearest candidate, or else a list of all of them."""
    candidates = list(candidates)
    if (match := nearest(name, candidates)) is not None:
        return f"did you mean {match!r}?"
    return f"allowed: {names(candidates)}" if candidates else "no key is allowed here"


_SINGULAR = {"are": "is", "do": "does", "have": "has", "were": "was"}
_SIBILANTS = ("s", "x", "ch", "sh")


def plural(count: int, noun: str, verb: str = "", *, form: str = "") -> str:
    """A number with its noun, and the verb of both: 1 step, 3 steps, 2 processes, 1 line is, 2 lines are.

    Args:
        noun: for one of them; words before the last one stay.
        verb: for several of them.
        form: format of the number, such as "," for 1,000 steps.
    """
    if count == 1:
        return f"1 {noun}" + (f" {_SINGULAR.get(verb, f'{verb}s')}" if verb else "")
    return f"{count:{form}} {noun}{'es' if noun.endswith(_SIBILANTS) else 's'}" + (f" {verb}" if verb else "")


def flag_of(name: str) -> str:
    """The flag of the command line that sets an argument: "batch_size" -> "--batch-size"."""
    return f"--{name.replace('_', '-')}"
