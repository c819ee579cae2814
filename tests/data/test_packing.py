"""Several clips to a row: full rows, every clip once, the same batches after a resume and on any ranks."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stable_audio.data import Batch, DataError, ResumableLoader, ResumableSampler, make_loader
from stable_audio.data.packing import pack_rows
from tests.data.test_pre_encoded import dataset, frames, make_npy, make_shards

LENGTHS = [5, 8, 12, 16, 30, 7, 15, 3, 9, 4, 6, 11, 2, 14, 10]
ROW = 20


@given(
    lengths=st.lists(st.integers(1, 50), max_size=80),
    row=st.integers(1, 40),
    open_rows=st.integers(1, 8),
)
@settings(max_examples=100, deadline=None)
def test_rows_hold_every_clip_once_and_never_too_much(lengths: list[int], row: int, open_rows: int) -> None:
    rows = pack_rows(lengths, row, open_rows=open_rows)
    assert sorted(itertools.chain(*rows)) == list(range(len(lengths)))
    assert all(sum(min(lengths[i], row) for i in r) <= row for r in rows)
    # Clips that share a row keep their running order, so that a row is one pass over it.
    assert all(list(r) == sorted(r) for r in rows)


def test_rows_are_nearly_full() -> None:
    lengths = torch.randint(20, 400, (3000,), generator=torch.Generator().manual_seed(0)).tolist()
    rows = pack_rows(lengths, 1024)
    assert sum(lengths) / (len(rows) * 1024) > 0.97


def test_two_halves_make_a_row() -> None:
    assert pack_rows([10, 10, 20, 5, 15], 20) == [[0, 1], [2], [3, 4]]


def packed(folder: Path, **options: Any) -> ResumableLoader:
    if not folder.exists():
        make_shards(folder, LENGTHS)
    data = dataset(folder, pack_length=ROW, random_crop=True)
    return make_loader(data, **{"batch_size": 2, "seed": 5, **options})


def names(batch: Batch) -> list[str]:
    return [m["prompt"] for m in batch.metadata]


@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_holds_every_clip_once(tmp_path: Path, shuffle: bool) -> None:
    loader = packed(tmp_path / "a", endless=False, drop_last=False, shuffle=shuffle)
    seen: list[str] = []
    for batch in loader:
        assert batch.packed is not None
        lengths = list(batch.packed.lengths)
        assert sum(lengths) <= 2 * ROW
        assert batch.audio.shape == (len(lengths), 2, max(lengths))
        assert batch.packed[1:] == (0, len(lengths))
        for latents, metadata, length in zip(batch.audio, batch.metadata, lengths):
            number = int(metadata["prompt"][1:])
            start = metadata["latent_crop_start"]
            assert length == min(LENGTHS[number], ROW)
            assert torch.equal(latents[:, :length], frames(LENGTHS[number])[:, start : start + length])
            assert not latents[:, length:].any()
            assert metadata["padding_mask"].sum() == length
        seen += names(batch)
    assert sorted(seen) == sorted(f"p{i}" for i in range(len(LENGTHS)))


def test_padding_that_was_stored_is_left_out(tmp_path: Path) -> None:
    make_npy(tmp_path, "a", 50, 12)
    (batch,) = make_loader(dataset(tmp_path, pack_length=ROW), batch_size=1, endless=False, drop_last=False)
    assert batch.audio.shape == (1, 2, 12)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", [1, 4, 7])
def test_resume_in_mid_epoch(tmp_path: Path, workers: int, taken: int) -> None:
    loader = packed(tmp_path / "a", num_workers=workers, drop_last=False)
    stream = iter(loader)
    for _ in range(taken):
        next(stream)
    state = json.loads(json.dumps(loader.state_dict()))
    expected = [next(stream) for _ in range(8)]
    resumed = packed(tmp_path / "a", num_workers=workers, drop_last=False)
    resumed.load_state_dict(state)
    for again, once in zip(itertools.islice(resumed, 8), expected):
        assert names(again) == names(once)
        assert torch.equal(again.audio, once.audio)
        assert again.packed == once.packed


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_rows_of_one_process(tmp_path: Path, world_size: int) -> None:
    whole = packed(tmp_path / "a", batch_size=world_size, endless=False, drop_last=True)
    ranks = [
        packed(tmp_path / "a", batch_size=1, rank=r, world_size=world_size, endless=False, drop_last=True)
        for r in range(world_size)
    ]
    count = 0
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert list(itertools.chain(*(names(p) for p in parts))) == names(batch)
        first = 0
        for part in parts:
            assert part.packed is not None
            assert part.packed[1:] == (first, len(batch.metadata))
            first += len(part.metadata)
        count += 1
    assert count >= 2


def test_rows_do_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    """So a run that is continued with another number of processes loses and repeats nothing."""
    small = packed(tmp_path / "a", batch_size=1, endless=False, drop_last=False)
    large = packed(tmp_path / "a", batch_size=3, endless=False, drop_last=False)
    assert [n for b in small for n in names(b)] == [n for b in large for n in names(b)]


def test_epochs_differ_and_weights_draw_again() -> None:
    lengths = [4, 6, 10, 10]
    sampler = ResumableSampler(
        4, batch_size=1, lengths=lengths, row_length=10, weights=[0, 0, 1, 1], drop_last=False
    )
    walk = sampler.walk(endless=True)
    drawn = Counter(k.index for _ in range(400) for k in next(walk)[0])
    assert set(drawn) == {2, 3}
    plain = ResumableSampler(4, batch_size=1, lengths=lengths, row_length=10, drop_last=False)
    assert len({tuple(tuple(plain.keys(e, b)) for b in range(3)) for e in range(9)}) == 9


def test_rejected_clips_leave_their_row_shorter(tmp_path: Path) -> None:
    for number, length in enumerate(LENGTHS):
        make_npy(tmp_path, f"p{number:02d}", length, length)
    (tmp_path / "m.py").write_text(
        "def get_custom_metadata(info, latents):\n"
        "    return {'__reject__': info['prompt'] in ('p03', 'p07')}\n"
    )
    data = dataset(tmp_path, entry={"custom_metadata_module": str(tmp_path / "m.py")}, pack_length=ROW)
    loader = make_loader(data, batch_size=2, endless=False, drop_last=False)
    batches = list(loader)
    assert sum(len(b.metadata) for b in batches) == len(LENGTHS) - 2
    assert all(b.packed is not None and len(b.packed.lengths) == len(b.metadata) for b in batches)
    # Draws are numbered by what was planned, so a rejected clip does not shift those of other processes.
    assert sum(b.packed.total for b in batches if b.packed is not None) == len(LENGTHS)
    assert loader.report.rejected == 2


@pytest.mark.parametrize(
    "keys",
    [
        {"pack_length": 0},
        {"pack_length": 8, "latent_crop_length": 8},
        {"pack_length": 8, "bucket_lengths": [8]},
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, keys: dict[str, Any]) -> None:
    make_npy(tmp_path, "a", 6, 6)
    with pytest.raises(DataError, match=r"\$\.pack_length: at least 1 frame, without"):
        dataset(tmp_path, **keys)


def test_mistakes_in_the_call() -> None:
    with pytest.raises(ValueError, match="row_length needs lengths"):
        ResumableSampler(4, batch_size=1, row_length=10)
