"""Checks of constructor values, with messages that say what was found and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable


def check_choice(name: str, value: object, allowed: Iterable[object]) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed are {', '.join(repr(a) for a in allowed)}")


def check_positive(**values: float) -> None:
    """Raise ValueError unless every value is greater than zero."""
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"{name} is {value}; it must be greater than 0")


MOST_LAYERS = 10_000
"""Far more layers than any network has; their list alone would fill the memory long before."""


def check_counts(**values: int) -> None:
    """Raise ValueError for a number of layers, blocks or codebooks that nobody can mean."""
    for name, value in values.items():
        if value > MOST_LAYERS:
            raise ValueError(f"{name} is {value}; at most {MOST_LAYERS} are possible")


def check_divides(divisor_name: str, divisor: int, value_name: str, value: int) -> None:
    """Raise ValueError unless `divisor` divides `value`."""
    if value % divisor:
        raise ValueError(f"{value_name} is {value}; it must be a multiple of {divisor_name} = {divisor}")
