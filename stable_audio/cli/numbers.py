"""Converters for argparse: numbers that are refused where they are read, with their flag."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def at_least(least: int) -> Callable[[str], int]:
    """A converter for argparse that accepts whole numbers from `least` on."""

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"a whole number of at least {least}, found '{text}'")
        return number

    return convert


def above_zero(text: str) -> float:
    """A converter for argparse that accepts finite numbers above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"a finite number above 0, found '{text}'")
    return number
