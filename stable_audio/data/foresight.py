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

LOOKED_AT = 10_000
"""Items that are looked at, evenly over the dataset; each costs the reading of its side-car files."""

_REASONS_SHOWN = 5


class Refused(NamedTuple):
    """Counts of the items, among `looked_at`, whose metadata the model cannot use.

    Attributes:
        reasons: reason -> number of items.
        examples: reason -> name of the first such item.
    """

    looked_at: int
    items: int
    reasons: dict[str, int]
    examples: dict[str, str]

    @property
    def total(self) -> int:
        return sum(self.reasons.values())

    def summary(self) -> str:
        """One sentence for messages."""
        listed = list(self.reasons.items())
        reasons = "; ".join(
            f"{count} as {printable(self.examples[reason])}: {reason}"
            for reason, count in listed[:_REASONS_SHOWN]
        )
        more = f"; and {len(listed) - _REASONS_SHOWN} other reasons" if len(listed) > _REASONS_SHOWN else ""
        return f"{self.total} of {self.looked_at} items looked at cannot be trained on: {reasons}{more}"


def refused(dataset: ClipDataset, check: ItemCheck, *, most: int = LOOKED_AT) -> Refused:
    """Check the metadata of up to `most` items that are known without reading sound."""
    looked_at, reasons, examples = 0, Counter[str](), dict[str, str]()
    for index in np.unique(np.linspace(0, len(dataset) - 1, min(most, len(dataset))).astype(int)):
        try:
            metadata = dataset.known(int(index))
        except ValueError:  # told with its reason when its turn comes
            continue
        if metadata is None:
            continue
        looked_at += 1
        if reason := check(metadata):
            reasons[reason] += 1
            examples.setdefault(reason, name_of(metadata))
    return Refused(looked_at, len(dataset), dict(reasons.most_common()), examples)


def warn_of_refused(dataset: ClipDataset, check: ItemCheck) -> None:
    """Warn how many items will be left out because of their metadata, if any.

    Raises:
        DataError: all items will be left out.
    """
    refusals = refused(dataset, check)
    if refusals.total and refusals.total == refusals.items:
        raise DataError(
            f"not one usable item: {refusals.summary()}. Add what is missing by side-car files, a manifest, "
            "custom metadata or a conditioner's 'default_keys'"
        )
    if refusals.total:
        _LOG.warning("%s; they are left out (data-report --model-config names them)", refusals.summary())
