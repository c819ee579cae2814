"""Checks of constructor values, with messages that give the value and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; allowed are {', '.join(repr(a) for a in choices)}")


def check_positive(**values: float) -> None:
    """Raise ValueError unless every value is greater than zero."""
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"{name} is {value}; it must be greater than 0")


MOST_LAYERS = 10_000
"""Far more layers than any network has; a list of many more would exhaust the memory."""


def check_counts(**values: int) -> None:
    """Raise ValueError for an absurd number of layers, blocks or codebooks."""
    for name, value in values.items():
        if value > MOST_LAYERS:
            raise ValueError(f"{name} is {value}; at most {MOST_LAYERS} are possible")


def check_divides(divisor_name: str, divisor: int, value_name: str, value: int) -> None:
    """Raise ValueError unless `divisor` divides `value`."""
    if value % divisor:
        raise ValueError(f"{value_name} is {value}; it must be a multiple of {divisor_name} = {divisor}")
