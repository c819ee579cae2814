"""The process that renders, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.inference.rendering.batches import BatchOptions, Clip, SoundBatch
from stable_audio.interface.service import loaded as loaded_module
from stable_audio.interface.service import worker as worker_module
from stable_audio.interface.service.loaded import LoadedModels
from stable_audio.interface.service.messages import (
    BatchDone,
    BatchSampled,
    ClipDone,
    ClipFailed,
    ModelLoaded,
    RenderBatch,
    RenderItem,
)
from stable_audio.interface.service.settings import ModelSource, WorkerOptions
from stable_audio.interface.service.worker import WorkerTask
from tests.inference import tiny
from tests.interface.service.running import published_model


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Any]:
    """A worker, whose messages are in its `ours`."""
    source = ModelSource(name="tiny", checkpoint=str(published_model(tmp_path / "tiny", tiny.config())))
    ours, theirs = Pipe()
    started = worker_module._BatchWorker(WorkerTask([source], {}, WorkerOptions(), tmp_path / "out"), theirs)
    started.ours = ours
    yield started
    ours.close()
    theirs.close()


def batch(number: int, *lines: dict[str, Any]) -> RenderBatch:
    usual = {"conditioning": {"prompt": "bell"}, "seconds": 0.1, "steps": 2}
    items = [RenderItem(f"{number}-{n}", {**usual, "seed": n, **line}) for n, line in enumerate(lines)]
    return RenderBatch(number, "tiny", items)


def messages(worker: Any, number: int) -> list[Any]:
    """All messages about a batch."""
    received: list[Any] = []
    while not any(isinstance(m, BatchDone) and m.number == number for m in received):
        assert worker.ours.poll(30)
        received.append(worker.ours.recv())
    return received


def test_a_batch_is_rendered_into_the_folder_of_results(worker: Any, tmp_path: Path) -> None:
    worker._serve(batch(1, {}, {}))
    received = messages(worker, 1)
    done = {m.id: m.result for m in received if isinstance(m, ClipDone)}
    assert {id: (r["samples"], r["batch"]) for id, r in done.items()} == {"1-0": (100, 2), "1-1": (100, 2)}
    assert [type(m) for m in received if isinstance(m, BatchSampled)] == [BatchSampled]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["1-0", "1-1"]


def test_a_bad_clip_fails_by_itself(worker: Any) -> None:
    worker._serve(batch(1, {}, {"init_audio": "0" * 32}, {"sampler": "no"}))
    received = messages(worker, 1)
    assert [m.id for m in received if isinstance(m, ClipDone)] == ["1-0"]
    assert sorted(m.id for m in received if isinstance(m, ClipFailed)) == ["1-1", "1-2"]


def test_a_model_that_cannot_be_loaded_again_fails_its_clips(
    worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(checkpoint: Any, **options: Any) -> Any:
        raise FileNotFoundError(2, "No such file", "model")

    monkeypatch.setattr(loaded_module, "load_render_model", gone)
    worker._serve(batch(1, {}, {}))
    assert [m.status for m in messages(worker, 1) if isinstance(m, ClipFailed)] == [500, 500]
    monkeypatch.undo()
    worker._serve(batch(2, {}))
    assert any(isinstance(m, ClipDone) for m in messages(worker, 2))


def test_clips_that_fail_together_are_rendered_one_by_one(
    worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = worker_module.sound_batches

    def faulty(adapted: Any, device: Any, pending: Sequence[Clip], options: Any) -> Any:
        if any(name == "1-1" for name, _, _ in pending):
            raise RuntimeError(f"no sound of {[name for name, _, _ in pending]}")
        return whole(adapted, device, pending, options)

    monkeypatch.setattr(worker_module, "sound_batches", faulty)
    worker._serve(batch(1, {}, {}, {}))
    received = messages(worker, 1)
    assert sorted(m.id for m in received if isinstance(m, ClipDone)) == ["1-0", "1-2"]
    (failed,) = (m for m in received if isinstance(m, ClipFailed))
    assert (failed.id, failed.status, "RuntimeError" in failed.reason) == ("1-1", 500, True)


def test_what_memory_holds_is_remembered(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def halved(adapted: Any, device: Any, pending: Sequence[Clip], options: BatchOptions) -> Any:
        sizes.append(options.size)
        size = min(2, options.size)
        for start in range(0, len(pending), size):
            clips = list(pending[start : start + size])
            yield SoundBatch(clips, torch.zeros(len(clips), 1, 640), 0.1)

    monkeypatch.setattr(worker_module, "sound_batches", halved)
    for number in (1, 2):
        worker._serve(batch(number, {}, {}, {}, {}))
        assert len([m for m in messages(worker, number) if isinstance(m, ClipDone)]) == 4
    assert sizes == [4, 2]


def test_a_cancelled_batch_stops_at_its_next_step(worker: Any) -> None:
    worker._cancelled.add(1)
    worker._serve(batch(1, {"steps": 500}))
    assert [type(m) for m in messages(worker, 1)] == [BatchSampled, BatchDone]


def test_a_full_disk_fails_the_clip_without_naming_the_folder(
    worker: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*args: Any, **options: Any) -> Any:
        raise OSError(28, "No space left on device", str(tmp_path / "out" / "x.wav"))

    monkeypatch.setattr(worker_module, "write_clip", full)
    worker._serve(batch(1, {}))
    (failed,) = (m for m in messages(worker, 1) if isinstance(m, ClipFailed))
    assert (failed.status, failed.reason) == (503, "the service has no room to store the sound")
    assert str(tmp_path) not in failed.reason


def test_models_that_were_not_used_for_longest_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(published_model(tmp_path / "tiny", tiny.config()))
    read = []
    whole = loaded_module.load_render_model

    def counted(checkpoint: Any, **options: Any) -> Any:
        read.append(1)
        return whole(checkpoint, **options)

    monkeypatch.setattr(loaded_module, "load_render_model", counted)
    sources = [ModelSource(name=name, checkpoint=path) for name in "abc"]
    broken = ModelSource(name="broken", checkpoint=str(tmp_path / "nothere.safetensors"))
    models = LoadedModels([*sources, broken], {}, WorkerOptions(resident=2))
    reports = {r.name: r for r in models.load_all()}
    assert [name for name, r in reports.items() if isinstance(r, ModelLoaded)] == ["b", "c", "a"]
    assert "nothere" in reports["broken"].reason  # type: ignore[union-attr]
    read.clear()
    for name, loads in [("a", 0), ("c", 0), ("b", 1), ("c", 1), ("a", 2)]:
        models.get(name)
        assert len(read) == loads, name
