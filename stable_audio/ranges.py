"""Ranges of settings, which their annotations state: `update_every: Positive = 1`.

Schemas of files take them over, and `check_ranges` holds them where a class is built in Python.
"""

from __future__ import annotations

import operator
import typing
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

Positive = Annotated[int, Gt(0)]
Probability = Annotated[float, Ge(0), Le(1)]
"""A probability, or a share of the whole."""

_LIMITS: dict[type, tuple[str, Any, str]] = {
    Ge: ("ge", operator.ge, "at least"),
    Gt: ("gt", operator.gt, "above"),
    Le: ("le", operator.le, "at most"),
    Lt: ("lt", operator.lt, "below"),
}
"""Mark in an annotation -> its attribute, the comparison that must hold, and its name."""


def check_ranges(options: Any) -> None:
    """Check the fields of a dataclass against the ranges in their annotations.

    Raises:
        ValueError: one is outside.
    """
    for name, annotation in typing.get_type_hints(type(options), include_extras=True).items():
        if typing.get_origin(annotation) is not Annotated:
            continue
        value = getattr(options, name)
        limits = [mark for mark in typing.get_args(annotation)[1:] if type(mark) in _LIMITS]
        if not all(_holds(value, limit) for limit in limits):
            raise ValueError(f"{name} must be {' and '.join(map(_told, limits))}, found {value}")


def _holds(value: Any, limit: Any) -> bool:
    attribute, compare, _ = _LIMITS[type(limit)]
    return bool(compare(value, getattr(limit, attribute)))


def _told(limit: Any) -> str:
    attribute, _, words = _LIMITS[type(limit)]
    return f"{words} {getattr(limit, attribute)}"
