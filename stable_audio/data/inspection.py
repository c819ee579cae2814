"""Summarise a dataset: counts, hours, rates, captions, and what cannot be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from stable_audio.data.base import ClipDataset, ItemCheck, ItemFacts, Rejected
from stable_audio.data.captions import RESERVED
from stable_audio.data.collate import name_of, replaced_keys
from stable_audio.data.crop import CROP_KEYS
from stable_audio.data.report import DataReport
from stable_audio.types import Metadata

NUM_THREADS = 4
"""Items that are read at the same time."""

_EVERY_CLIP_HAS = frozenset({*RESERVED, *CROP_KEYS, "__key__"})


class _Item(NamedTuple):
    """Facts of one item, with the keys of its metadata but not their values.

    Attributes:
        replaced: keys with text in which U+FFFD stands for what could not be read.
        beyond: keys whose values lie outside the model's range.
    """

    facts: ItemFacts
    keys: tuple[str, ...]
    null: tuple[str, ...]
    replaced: tuple[str, ...]
    beyond: tuple[str, ...]


def inspect_dataset(
    dataset: ClipDataset,
    *,
    thorough: bool = True,
    num_threads: int = NUM_THREADS,
    check: ItemCheck | None = None,
    beyond: Callable[[Metadata], list[str]] | None = None,
) -> dict[str, Any]:
    """Summarise all items of a dataset.

    Args:
        thorough: decode everything, which finds damaged and silent files; otherwise headers only.
        check: metadata -> the reason why the model cannot use the item, or None.
        beyond: metadata -> the keys whose values lie outside the model's range.

    Returns:
        files, usable, hours, seconds {shortest, mean, longest}, captions (share of usable items with a
        prompt), datasets, sample_rates, channels and formats {name: count}, keys, null and replaced
        {metadata key: usable items that have it, have null, or have text with U+FFFD, which stands for what
        could not be read}, beyond {key: items}, ignored {suffix: files that nothing reads}, rejected {reason:
        files}.
    """
    report = DataReport(max_logged=0)
    report.add(0, dataset.problems)
    items: list[_Item] = []
    for result in _inspect_items(dataset, thorough, num_threads, check, beyond):
        if isinstance(result, Rejected):
            report.add(0, [result])
        else:
            report.add(1)
            items.append(result)
    facts = [item.facts for item in items]
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
        "keys": _counts([key for item in items for key in item.keys]),
        "null": _counts([key for item in items for key in item.null]),
        "replaced": _counts([key for item in items for key in item.replaced]),
        "beyond": _counts([key for item in items for key in item.beyond]),
        "ignored": dict(dataset.ignored),
        "rejected": report.by_reason(),
    }


def _inspect_items(
    dataset: ClipDataset,
    thorough: bool,
    num_threads: int,
    check: ItemCheck | None,
    beyond: Callable[[Metadata], list[str]] | None,
) -> Iterator[_Item | Rejected]:
    def inspect(index: int) -> _Item | Rejected:
        facts = dataset.inspect(index, thorough=thorough)
        if isinstance(facts, Rejected):
            return facts
        metadata = facts.metadata
        if check is not None and (reason := check(metadata)):
            return Rejected(name_of(metadata), reason)
        keys = tuple(k for k, v in metadata.items() if v is not None and k not in _EVERY_CLIP_HAS)
        null = tuple(k for k, v in metadata.items() if v is None)
        replaced = tuple(replaced_keys(metadata))
        outside = tuple(beyond(metadata)) if beyond is not None else ()
        return _Item(facts._replace(metadata={}), keys, null, replaced, outside)

    with ThreadPoolExecutor(max_workers=max(1, num_threads)) as pool:
        yield from pool.map(inspect, range(len(dataset)))


def _counts(values: list[Any]) -> dict[str, int]:
    return {str(value): count for value, count in Counter(values).most_common()}


def _spread(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    return {"shortest": min(seconds), "mean": sum(seconds) / len(seconds), "longest": max(seconds)}
