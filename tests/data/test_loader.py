from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from stable_audio.data import Batch, ClipDataset, DataError, ItemKey, Rejected, make_loader
from stable_audio.data.collate import collate
from stable_audio.data.foresight import count_refusals, warn_of_refused
from stable_audio.data.report import DataReport
from stable_audio.incidents import IncidentHandler


class Numbers(ClipDataset):
    """Item i is audio full of i; its metadata holds the first draw of its generator."""

    def __init__(self, count: int, bad: frozenset[int] = frozenset()) -> None:
        self.count, self.bad = count, bad

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: ItemKey) -> tuple[torch.Tensor, dict] | Rejected:
        if key.index in self.bad:
            return Rejected(f"file{key.index}", "bad")
        draw = float(torch.rand((), generator=key.generator()))
        return torch.full((1, 4), float(key.index)), {"index": key.index, "draw": draw}


def content(batch: Batch) -> list[tuple[int, float]]:
    return [(m["index"], m["draw"]) for m in batch.metadata]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_batches_whatever_the_workers(workers: int) -> None:
    reference = [content(b) for b in itertools.islice(make_loader(Numbers(10), batch_size=3), 8)]
    loader = make_loader(Numbers(10), batch_size=3, num_workers=workers)
    assert [content(b) for b in itertools.islice(loader, 8)] == reference


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_in_mid_epoch(workers: int) -> None:
    """The position counts what was handed out, not what the workers have read ahead."""
    bad = frozenset({1, 4, 5})
    loader = make_loader(Numbers(11, bad), batch_size=2, num_workers=workers)
    stream = iter(loader)
    for _ in range(7):
        next(stream)
    state = json.loads(json.dumps(loader.state_dict()))
    expected = [content(next(stream)) for _ in range(9)]
    resumed = make_loader(Numbers(11, bad), batch_size=2, num_workers=workers)
    resumed.load_state_dict(state)
    assert [content(b) for b in itertools.islice(resumed, 9)] == expected


def test_a_consumer_that_fetches_ahead_asks_for_its_own_position() -> None:
    loader = make_loader(Numbers(9), batch_size=2)
    stream = iter(loader)
    for _ in range(5):
        next(stream)
    state = loader.state_after(3)
    expected = content(list(itertools.islice(make_loader(Numbers(9), batch_size=2), 4))[3])
    loader.load_state_dict(state)
    assert content(next(iter(loader))) == expected
    with pytest.raises(ValueError, match="not known"):
        loader.state_after(17)


def test_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(itertools.islice(make_loader(Numbers(9), batch_size=2), 6))
    assert torch.equal(before, torch.get_rng_state())


def test_passes() -> None:
    once = make_loader(Numbers(7), batch_size=2, endless=False)
    first, second = [content(b) for b in once], [content(b) for b in once]
    assert len(first) == len(second) == len(once) == 3
    assert first != second
    repeated = make_loader(Numbers(7), batch_size=2, endless=False, repeat=True)
    assert [content(b) for b in repeated] == [content(b) for b in repeated] == first


@pytest.mark.parametrize("workers", [0, 2])
def test_rejected_items_are_dropped_counted_and_named(workers: int) -> None:
    loader = make_loader(
        Numbers(8, frozenset({0, 1, 5})), batch_size=2, shuffle=False, endless=False, num_workers=workers
    )
    seen = [[m["index"] for m in b.metadata] for b in loader]
    assert seen == [[2, 3], [4], [6, 7]]
    assert (loader.report.accepted, loader.report.rejected) == (5, 3)
    assert loader.report.by_reason() == {"bad": ["file0", "file1", "file5"]}
    assert loader.handed_out == 3


def test_nothing_usable_is_an_error_not_a_hang() -> None:
    with pytest.raises(DataError, match=r"(?s)not one usable item.*bad: file0"):
        next(iter(make_loader(Numbers(4, frozenset(range(4))), batch_size=2)))


def test_an_exception_in_a_dataset_is_not_swallowed() -> None:
    class Broken(Numbers):
        def __getitem__(self, key: ItemKey) -> Rejected:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        next(iter(make_loader(Broken(4), batch_size=2)))


def test_collate_pads_and_masks() -> None:
    items = [(torch.ones(2, 3), {"padding_mask": torch.ones(3)}), (torch.ones(2, 5), {})]
    collated = collate(items)
    assert collated.batch is not None
    assert collated.batch.audio[0].tolist() == [[1, 1, 1, 0, 0]] * 2
    assert collated.batch.metadata[0]["padding_mask"].tolist() == [1, 1, 1, 0, 0]
    assert len(items[0][1]["padding_mask"]) == 3
    assert collate([Rejected("a", "b")]).batch is None


def test_the_report_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    report = DataReport(max_names=5, max_logged=2)
    report.add(1, [Rejected(f"f{i}", "r") for i in range(50)])
    report.add(0, [Rejected("f1", "r")])
    assert report.rejected == 51
    assert len(report.by_reason()["r"]) == 5
    assert len(caplog.records) == 3
    assert caplog.messages[-1].startswith("3 files are left out by now")
    assert "1 item used, 51 left out" in report.summary()
    assert "and 2 more" in report.summary()


def test_the_record_of_a_run_gets_what_is_left_out_in_a_bounded_number_of_incidents() -> None:
    kept: list[Mapping[str, Any]] = []
    handler, package = IncidentHandler(kept.append), logging.getLogger("stable_audio")
    package.addHandler(handler)
    try:
        report = DataReport(max_logged=2)
        report.add(0, [Rejected(f"f{i}", "cut off") for i in range(1234)])
        DataReport(max_logged=0).add(0, [Rejected("f", "cut off")])
    finally:
        package.removeHandler(handler)
    assert {entry["kind"] for entry in kept} == {"left out"}
    assert [entry["text"] for entry in kept[:2]] == ["left out: f0: cut off", "left out: f1: cut off"]
    assert [entry.get("file", entry.get("files")) for entry in kept] == ["f0", "f1", 3, 10, 100, 1000]


class Described(Numbers):
    """Item i says that its number is i, or null when it is bad."""

    def stored_metadata(self, index: int) -> dict:
        return {"path": f"file{index}", "number": None if index in self.bad else index}

    def __getitem__(self, key: ItemKey) -> tuple[torch.Tensor, dict]:
        return torch.zeros(1, 4), self.stored_metadata(key.index)


def has_number(metadata: dict) -> str | None:
    return "'number' is null" if metadata["number"] is None else None


@pytest.mark.parametrize("workers", [0, 1])
def test_clips_that_the_model_cannot_use_are_left_out_by_name(workers: int) -> None:
    dataset = Described(6, frozenset({1, 4}))
    loader = make_loader(
        dataset, batch_size=2, shuffle=False, endless=False, num_workers=workers, check=has_number
    )
    assert [[m["number"] for m in batch.metadata] for batch in loader] == [[0], [2, 3], [5]]
    assert loader.report.by_reason() == {"'number' is null": ["file1", "file4"]}


def test_what_will_be_left_out_is_said_before(caplog: pytest.LogCaptureFixture) -> None:
    dataset = Described(6, frozenset({1, 4}))
    assert count_refusals(dataset, has_number).reasons == {"'number' is null": 2}
    warn_of_refused(dataset, has_number)
    assert "2 of 6 inspected items cannot be trained on: 2 as file1: 'number' is null" in caplog.text
    some = count_refusals(Described(1000, frozenset(range(0, 1000, 2))), has_number, most=100)
    assert some.inspected == 100
    with pytest.raises(DataError, match="not one usable item: 3 of 3"):
        warn_of_refused(Described(3, frozenset(range(3))), has_number)


def test_an_epoch_counts_for_itself() -> None:
    """Many empty batches in a row are no error where an epoch holds something, an empty epoch is."""

    class Dying(Numbers):
        def __getitem__(self, key: ItemKey) -> tuple[torch.Tensor, dict] | Rejected:
            self.bad = frozenset() if key.index == 5 and self.alive else frozenset(range(10))
            return super().__getitem__(key)

    dataset = Dying(6)
    dataset.alive = True
    loader = make_loader(dataset, batch_size=1)
    stream = iter(loader)
    assert [next(stream).metadata[0]["index"] for _ in range(6)] == [5] * 6
    dataset.alive = False
    with pytest.raises(DataError, match="a whole pass over the dataset: 0 items used, 6 left out"):
        next(stream)
