"""Predict, before training starts, which items will be left out because of their metadata."""

from __future__ import annotations

import logging
from collections import Counter
from typing import NamedTuple

import numpy as np

from stable_audio.data.base import ClipDataset, DataError, ItemCheck
from stable_audio.data.collate import name_of, replaced_keys
from stable_audio.data.report import printable
from stable_audio.wording import plural

_LOG = logging.getLogger(__name__)

MAX_INSPECTED = 10_000
"""Number of items to inspect, evenly spread over the dataset; for each its side-car files are read."""

_REASONS_SHOWN = 5


class Refusals(NamedTuple):
    """Counts of the items, among `inspected`, whose metadata the model cannot use.

    Attributes:
        reasons: reason -> number of items.
        examples: reason -> name of the first such item.
        replaced: number of items with text in which U+FFFD stands for what could not be read.
        replaced_in: name of the first of them.
    """

    inspected: int
    items: int
    reasons: dict[str, int]
    examples: dict[str, str]
    replaced: int = 0
    replaced_in: str = ""

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
        rest = len(counts) - _REASONS_SHOWN
        more = f"; and {plural(rest, 'other reason')}" if rest > 0 else ""
        inspected = plural(self.inspected, "inspected item")
        return f"{self.total} of {inspected} cannot be trained on: {reasons}{more}"

    def of_replaced(self) -> str | None:
        """One sentence about texts that could not be read whole; None if all could."""
        if not self.replaced:
            return None
        return (
            f"{self.replaced} of {plural(self.inspected, 'inspected item')} could not be read whole, "
            f"as {printable(self.replaced_in)}: U+FFFD is in place of some characters; data-report "
            "counts them by key"
        )


def count_refusals(dataset: ClipDataset, check: ItemCheck, *, most: int = MAX_INSPECTED) -> Refusals:
    """Check the metadata of up to `most` items that are known without reading sound."""
    inspected, reasons, examples = 0, Counter[str](), dict[str, str]()
    replaced: list[str] = []
    for index in np.unique(np.linspace(0, len(dataset) - 1, min(most, len(dataset))).astype(int)):
        try:
            metadata = dataset.stored_metadata(int(index))
        except ValueError:  # reported with its reason when the item is loaded
            continue
        if metadata is None:
            continue
        inspected += 1
        if replaced_keys(metadata):
            replaced.append(name_of(metadata))
        if reason := check(metadata):
            reasons[reason] += 1
            examples.setdefault(reason, name_of(metadata))
    counted = dict(reasons.most_common())
    return Refusals(inspected, len(dataset), counted, examples, len(replaced), *replaced[:1])


def warn_of_refused(dataset: ClipDataset, check: ItemCheck) -> None:
    """Warn how many items will be left out because of their metadata, or have damaged text, if any.

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
    if (sentence := refusals.of_replaced()) is not None:
        _LOG.warning("%s", sentence)
