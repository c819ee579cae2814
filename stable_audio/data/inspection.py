"""What a dataset holds: counts, hours, rates, captions, and what cannot be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from stable_audio.data.base import ClipDataset, ItemFacts, Rejected
from stable_audio.data.report import DataReport


def inspect_dataset(dataset: ClipDataset, *, thorough: bool = True, num_threads: int = 4) -> dict[str, Any]:
    """Look at every item.

    Args:
        thorough: decode everything, which finds damaged and silent files; otherwise headers only.

    Returns:
        files, usable, hours, seconds {shortest, mean, longest}, captions (share of usable items with a
        prompt), datasets, sample_rates, channels and formats {name: count}, rejected {reason: files}.
    """
    report = DataReport(max_logged=0)
    report.add(0, dataset.problems)
    facts: list[ItemFacts] = []
    for found in _look(dataset, thorough, num_threads):
        if isinstance(found, Rejected):
            report.add(0, [found])
        else:
            report.add(1)
            facts.append(found)
    return {
        "files": len(dataset),
        "usable": len(facts),
        "hours": sum(f.seconds for f in facts) / 3600,
        "seconds": _spread([f.seconds for f in facts]),
        "captions": sum(f.captioned for f in facts) / max(1, len(facts)),
        **{
            name: _counts([getattr(f, field) for f in facts])
            for name, field in (
                ("datasets", "dataset"),
                ("sample_rates", "sample_rate"),
                ("channels", "channels"),
                ("formats", "format"),
            )
        },
        "rejected": report.by_reason(),
    }


def _look(dataset: ClipDataset, thorough: bool, num_threads: int) -> Iterator[ItemFacts | Rejected]:
    with ThreadPoolExecutor(max_workers=max(1, num_threads)) as pool:
        yield from pool.map(lambda index: dataset.inspect(index, thorough=thorough), range(len(dataset)))


def _counts(values: list[Any]) -> dict[str, int]:
    return {str(value): count for value, count in Counter(values).most_common()}


def _spread(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    return {"shortest": min(seconds), "mean": sum(seconds) / len(seconds), "longest": max(seconds)}
