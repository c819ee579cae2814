"""Predict, before training starts, which items will be left out because of their metadata."""

from __future__ import annotations

import logging
from collections import Counter
from typing import NamedTuple

import numpy as np

from stable_audio.data.base import ClipDataset, DataError, ItemCheck
from stable_audio.data.collate import name_of
from stable_audio.data.report import printable

_LOG = logging.getLogger(__name__)

MAX_INSPECTED = 10_000
"""Number of items to inspect, evenly spread over the dataset; for each its side-car files are read."""

_REASONS_SHOWN = 5


class Refusals(NamedTuple):
    """Counts of the items, among `inspected`, whose metadata the model cannot use.

    Attributes:
        reasons: reason -> number of items.
        examples: reason -> name of the first such item.
    """

    inspected: int
    items: int
    reasons: dict[str, int]
    examples: dict[str, str]

    @property
    def total(self) -> int:
        return sum(self.reasons.values())

    def summary(self) -> str:
        """One sentence for messages."""
        counts = list(self.reasons.items())
        reasons = "; ".join(
            f"{count} as {printable(self.examples[reason])}: {reason}"
            for reason, count in counts[:_REASONS_SHOWN]
        )
        more = f"; and {len(counts) - _REASONS_SHOWN} other reasons" if len(counts) > _REASONS_SHOWN else ""
        return f"{self.total} of {self.inspected} inspected items cannot be trained on: {reasons}{more}"


def count_refusals(dataset: ClipDataset, check: ItemCheck, *, most: int = MAX_INSPECTED) -> Refusals:
    """Check the metadata of up to `most` items that are known without reading sound."""
    inspected, reasons, examples = 0, Counter[str](), dict[str, str]()
    for index in np.unique(np.linspace(0, len(dataset) - 1, min(most, len(dataset))).astype(int)):
        try:
            metadata = dataset.stored_metadata(int(index))
        except ValueError:  # reported with its reason when the item is loaded
            continue
        if metadata is None:
            continue
        inspected += 1
        if reason := check(metadata):
            reasons[reason] += 1
            examples.setdefault(reason, name_of(metadata))
    return Refusals(inspected, len(dataset), dict(reasons.most_common()), examples)


def warn_of_refused(dataset: ClipDataset, check: ItemCheck) -> None:
    """Warn how many items will be left out because of their metadata, if any.

    Raises:
        DataError: all items will be left out.
    """
    refusals = count_refusals(dataset, check)
    if refusals.total and refusals.total == refusals.items:
        raise DataError(
            f"not one usable item: {refusals.summary()}. Add what is missing by side-car files, a manifest, "
            "custom metadata or a conditioner's 'default_keys'"
        )
    if refusals.total:
        _LOG.warning("%s; they are left out (data-report --model-config names them)", refusals.summary())
