"""Means over the items of a validation set: each item counts once, whatever the batches and processes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from stable_audio.training.processes.gathering import of_all

Rows = dict[int, dict[str, float]]
"""Number of the item -> name -> value."""


class ItemValues:
    """Measured values of each item. They stay on their device until `rows` is called."""

    def __init__(self) -> None:
        self._items: list[Sequence[int]] = []
        self._values: list[Mapping[str, Tensor]] = []

    def add(self, items: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Add one batch: values (b,) by name, in the order of `items`."""
        self._items.append(items)
        self._values.append(values)

    def rows(self) -> Rows:
        """All values so far, without those that are not a number."""
        table: Rows = {}
        for items, values in zip(self._items, self._values):
            for name, of_items in values.items():
                for item, value in zip(items, of_items.detach().double().tolist(), strict=True):
                    row = table.setdefault(item, {})
                    if not math.isnan(value):
                        row[name] = value
        return table


def over_processes(rows: Rows, world_size: int) -> Rows:
    """The rows of all processes; an item that several processes have counts once."""
    if world_size == 1:
        return rows
    return {item: row for part in of_all(rows) for item, row in part.items()}


def means(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Mean by name over the items that have a value for it."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    return {name: sum(numbers) / len(numbers) for name, numbers in sorted(values.items())}
