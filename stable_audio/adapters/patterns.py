"""Selection of layers by parts of their names."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

_RANGE = re.compile(r"\[(\d+)-(\d+)\]")


def expanded(pattern: str) -> list[str]:
    """A pattern with every `[a-b]` replaced by each integer from a to b, both included, in every combination.

    White space around it is left out; b may be the smaller one.
    """
    pieces = _RANGE.split(pattern.strip())
    texts, bounds = pieces[::3], list(zip(pieces[1::3], pieces[2::3]))
    choices = [range(min(a, b), max(a, b) + 1) for a, b in ((int(a), int(b)) for a, b in bounds)]
    return [
        "".join(itertools.chain(*zip(texts, map(str, numbers)), texts[-1:]))
        for numbers in itertools.product(*choices)
    ]


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name contains any of the patterns, after `expanded`.

    They are substrings: `layers.1` also matches `layers.10`.
    """
    return any(part in name for pattern in patterns for part in expanded(pattern))


def selected(name: str, include: Sequence[str] | None, exclude: Sequence[str] | None) -> bool:
    """Whether the layer called `name` is to have an adapter; `exclude` wins, `include` None selects all."""
    return (include is None or matches(name, include)) and not matches(name, exclude or ())


def filter_patterns(layer_filter: str) -> list[str]:
    """The patterns of a layer filter, which has commas between them."""
    return [pattern for pattern in layer_filter.split(",") if pattern.strip()]


def filtered(name: str, layer_filter: str) -> bool:
    """Whether a layer filter names a layer, in any case of letters."""
    return matches(name.lower(), filter_patterns(layer_filter.lower()))


def unmatched(names: Iterable[str], layer_filter: str) -> str | None:
    """The first pattern of a layer filter that names none of the layers; None: each names some."""
    names = list(names)
    patterns = filter_patterns(layer_filter) or [layer_filter] * bool(layer_filter)
    return next((p for p in patterns if not any(filtered(name, p) for name in names)), None)
