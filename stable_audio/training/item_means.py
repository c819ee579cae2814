"""Means over the items of a validation set: each counts once, whatever the batches and processes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

Rows = dict[int, dict[str, float]]
"""Values by name, by number of the item."""


class ItemValues:
    """What was measured of each item. Values stay on their device until `rows` is called."""

    def __init__(self) -> None:
        self._items: list[Sequence[int]] = []
        self._values: list[Mapping[str, Tensor]] = []

    def add(self, items: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Take in one batch: values (b,) by name, in the order of the items."""
        self._items.append(items)
        self._values.append(values)

    def rows(self) -> Rows:
        """Everything so far, without what is not a number."""
        found: Rows = {}
        for items, values in zip(self._items, self._values):
            for name, of_items in values.items():
                for item, value in zip(items, of_items.detach().double().tolist(), strict=True):
                    row = found.setdefault(item, {})
                    if not math.isnan(value):
                        row[name] = value
        return found


def over_processes(rows: Rows, world_size: int) -> Rows:
    """The rows of all processes. Where an item does not divide a batch, several of them have it."""
    if world_size == 1:
        return rows
    gathered: list[Rows] = [{} for _ in range(world_size)]
    torch.distributed.all_gather_object(gathered, rows)
    return {item: row for part in gathered for item, row in part.items()}


def means(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Mean by name over the items that have a value for it."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    return {name: sum(found) / len(found) for name, found in sorted(values.items())}
