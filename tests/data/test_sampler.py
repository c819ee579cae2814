import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stable_audio.data import DataError, ItemKey, ResumableSampler
from stable_audio.wording import plural


def batches(sampler: ResumableSampler, count: int) -> list[list[ItemKey]]:
    walk = sampler.walk(endless=True)
    return [next(walk)[0] for _ in range(count)]


@given(
    items=st.integers(1, 60), batch_size=st.integers(1, 7), shuffle=st.booleans(), seed=st.integers(0, 2**40)
)
@settings(max_examples=50, deadline=None)
def test_an_epoch_visits_every_item_once(items: int, batch_size: int, shuffle: bool, seed: int) -> None:
    sampler = ResumableSampler(items, batch_size=batch_size, seed=seed, shuffle=shuffle, drop_last=False)
    visited = [key.index for batch in sampler for key in batch]
    assert sorted(visited) == list(range(items))
    assert len(list(sampler)) == len(sampler) == -(-items // batch_size)
    if not shuffle:
        assert visited == list(range(items))


@given(
    items=st.integers(8, 60),
    batch_size=st.integers(1, 4),
    drop_last=st.booleans(),
    stop=st.integers(0, 30),
    bucketed=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_a_stored_position_continues_exactly(
    items: int, batch_size: int, drop_last: bool, stop: int, bucketed: bool
) -> None:
    def make() -> ResumableSampler:
        buckets = [i % 2 for i in range(items)] if bucketed else None
        return ResumableSampler(items, batch_size=batch_size, seed=3, drop_last=drop_last, buckets=buckets)

    walk = make().walk(endless=True)
    state = make().state_dict()
    for _ in range(stop):
        _, state = next(walk)
    resumed = make()
    resumed.load_state_dict(json.loads(json.dumps(state)))
    again = resumed.walk(endless=True)
    for _ in range(10):
        assert next(walk) == next(again)


def test_two_ranks_see_what_one_process_sees() -> None:
    """Item for item, seeds included, over several epochs."""
    one = batches(ResumableSampler(22, batch_size=4, seed=5), 12)
    ranks = [batches(ResumableSampler(22, batch_size=2, seed=5, rank=r, world_size=2), 12) for r in range(2)]
    assert [a + b for a, b in zip(*ranks)] == one
    for a, b in zip(*ranks):
        assert not set(a) & set(b)


def test_epochs_and_seeds_differ() -> None:
    two_epochs = batches(ResumableSampler(8, batch_size=8), 2)
    assert [k.index for k in two_epochs[0]] != [k.index for k in two_epochs[1]]
    assert not {k.seed for k in two_epochs[0]} & {k.seed for k in two_epochs[1]}
    assert batches(ResumableSampler(8, batch_size=8, seed=1), 1) != batches(
        ResumableSampler(8, batch_size=8), 1
    )


def test_a_short_last_batch_gives_every_rank_work() -> None:
    ranks = [ResumableSampler(7, batch_size=2, rank=r, world_size=3, drop_last=False) for r in range(3)]
    lasts = [list(sampler)[-1] for sampler in ranks]
    assert [len(last) for last in lasts] == [1, 1, 1]
    assert len({key.index for sampler in ranks for batch in sampler for key in batch}) == 7


def test_weights_are_relative_frequencies() -> None:
    sampler = ResumableSampler(4, batch_size=4, weights=[0.0, 1.0, 1.0, 2.0])
    counts = Counter(key.index for batch in batches(sampler, 2000) for key in batch)
    assert counts[0] == 0
    assert counts[3] / 8000 == pytest.approx(0.5, abs=0.03)
    assert counts[1] / 8000 == pytest.approx(0.25, abs=0.03)


def test_a_batch_holds_one_bucket() -> None:
    buckets = [0, 1, 2, 0, 1, 0, 0, 1, 1, 0, 2, 2]
    for epoch_batch in batches(ResumableSampler(12, batch_size=2, buckets=buckets), 30):
        assert len({buckets[k.index] for k in epoch_batch}) == 1
    kept = ResumableSampler(12, batch_size=2, buckets=buckets, drop_last=False)
    assert sorted(k.index for b in kept for k in b) == list(range(12))


def test_another_batch_size_continues_nearby() -> None:
    sampler = ResumableSampler(100, batch_size=4)
    sampler.load_state_dict({"epoch": 2, "batch": 5, "global_batch_size": 8})
    assert sampler.state_dict() == {"epoch": 2, "batch": 10, "global_batch_size": 4}


@pytest.mark.parametrize("items", [1, 3, 5, 8])
def test_few_items_are_passed_over_again(items: int, caplog: pytest.LogCaptureFixture) -> None:
    """One batch per epoch with every item in it as evenly as can be, and no draw twice."""
    ranks = [ResumableSampler(items, batch_size=4, rank=r, world_size=2) for r in range(2)]
    told = [r.message for r in caplog.records]
    assert len(told) == (items < 8)
    assert all(
        f"{plural(items, 'item')} cannot fill a batch of 8 (4 x 2 processes): all are" in t for t in told
    )
    assert [len(s) for s in ranks] == [1, 1]
    for first, second in zip(*(batches(s, 3) for s in ranks)):
        keys = first + second
        counts = Counter(key.index for key in keys)
        assert sorted(counts) == list(range(items))
        assert max(counts.values()) - min(counts.values()) <= 1
        assert len({key.seed for key in keys}) == 8


def test_few_items_in_order_make_one_short_batch() -> None:
    """Validation counts nothing twice."""
    assert [[k.index for k in b] for b in ResumableSampler(3, batch_size=8, shuffle=False)] == [[0, 1, 2]]


def test_few_items_with_weights_buckets_or_rows() -> None:
    weighted = batches(ResumableSampler(2, batch_size=200, weights=[1.0, 3.0]), 1)[0]
    assert Counter(k.index for k in weighted)[1] / 200 == pytest.approx(0.75, abs=0.1)
    buckets = [0, 0, 1]
    two = batches(ResumableSampler(3, batch_size=4, buckets=buckets), 2)
    assert sorted(sorted(k.index for k in b) for b in two) == [[0, 0, 1, 1], [2, 2, 2, 2]]
    rows = batches(ResumableSampler(3, batch_size=4, lengths=[5, 5, 10], row_length=10), 1)[0]
    assert Counter(k.index for k in rows) == {0: 2, 1: 2, 2: 2}
    assert len({k.seed for k in rows}) == len(rows)


@pytest.mark.parametrize(
    ("items", "ranks", "told"),
    [
        (11, 2, "1 of 3 batches per epoch cannot be shared evenly by 2 processes: 1 item counts twice"),
        (9, 4, "3 items count"),
    ],
)
def test_items_that_count_twice_are_told(
    items: int, ranks: int, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    options = {"batch_size": 4 // ranks, "world_size": ranks}
    for rank in range(ranks):
        sampler = ResumableSampler(items, rank=rank, drop_last=False, **options)
        assert len(sampler.keys(0, 2)) == -(-(items - 8) // ranks)
    assert caplog.text.count("unlike in one process") == 1
    assert told in caplog.text
    caplog.clear()
    ResumableSampler(items, drop_last=True, **options)
    ResumableSampler(12, drop_last=False, **options)
    ResumableSampler(items, batch_size=4, drop_last=False)
    assert not caplog.text


def test_items_of_small_buckets_are_told(caplog: pytest.LogCaptureFixture) -> None:
    ResumableSampler(7, batch_size=4, buckets=[0, 0, 0, 0, 0, 1, 1])
    assert "2 of 7 items cannot be used, in buckets that do not fill a batch of 4" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_items": 0}, "empty"),
        ({"num_items": 5, "rank": 1}, "rank"),
        ({"num_items": 5, "weights": [1.0, 2.0]}, "5 finite numbers"),
        ({"num_items": 4, "weights": [0.0] * 4}, "not all zero"),
        ({"num_items": 4, "weights": [1.0, -1.0, 1.0, 1.0]}, "between -1.0 and 1.0"),
    ],
)
def test_what_cannot_be_sampled(arguments: dict, message: str) -> None:
    with pytest.raises((DataError, ValueError), match=message):
        ResumableSampler(batch_size=4, **arguments)
