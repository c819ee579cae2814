"""Sampling goes on while the batch before becomes sound and files, and never further ahead than one batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.inference import Sampling
from stable_audio.inference.rendering import batches, render
from stable_audio.inference.rendering.ahead import ahead
from stable_audio.inference.rendering.batches import Turns, in_batches
from stable_audio.inference.rendering.jobs import Job
from stable_audio.inference.rendering.render import OutputFiles
from stable_audio.inference.rendering.request import RenderRequest, RenderTask
from tests.inference import tiny

SECONDS = 30


def _threads() -> int:
    return sum(thread.name == "ahead" for thread in threading.enumerate())


def test_the_next_result_is_made_while_one_is_used_and_no_further_one() -> None:
    begun = [threading.Event() for _ in range(4)]

    def produce(check: Callable[[], None]) -> Iterator[int]:
        for number, event in enumerate(begun):
            event.set()
            yield number

    results = ahead(produce)
    for number in range(4):
        assert next(results) == number
        if number < 3:
            assert begun[number + 1].wait(SECONDS)
        assert not any(event.is_set() for event in begun[number + 2 :])
    with pytest.raises(StopIteration):
        next(results)
    assert _threads() == 0


def test_an_error_comes_after_the_results_before_it() -> None:
    def produce(check: Callable[[], None]) -> Iterator[int]:
        yield 1
        raise OSError("disk")

    results = ahead(produce)
    assert next(results) == 1
    with pytest.raises(OSError, match="disk"):
        next(results)
    assert _threads() == 0


def test_what_nobody_wants_any_more_stops_at_its_next_check() -> None:
    begun, ended = threading.Event(), threading.Event()

    def produce(check: Callable[[], None]) -> Iterator[int]:
        yield 1
        begun.set()
        try:
            while not ended.wait(0.001):
                check()
        finally:
            ended.set()
        yield 2

    results = ahead(produce)
    assert next(results) == 1
    assert begun.wait(SECONDS)
    results.close()
    assert ended.is_set()
    assert _threads() == 0


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> RenderTask:
    weights, model_file = tiny.save(tmp_path_factory.mktemp("model"), tiny.config())
    jobs = [Job({"prompt": name}) for name in ("bell", "drum", "wind")]
    request = RenderRequest(
        checkpoint=weights, config=str(model_file), jobs=jobs, seconds=0.1, sampling=Sampling(steps=2)
    )
    return request.task(request.load())


@pytest.fixture
def samplings(monkeypatch: pytest.MonkeyPatch) -> list[threading.Event]:
    """An event for each of three batches, set when its sampling begins."""
    begun, calls = [threading.Event() for _ in range(3)], iter(range(3))
    real = batches.undecoded

    def sampled(*args: Any, **kwargs: Any) -> Any:
        begun[next(calls)].set()
        return real(*args, **kwargs)

    monkeypatch.setattr(batches, "undecoded", sampled)
    return begun


def test_a_file_is_written_while_the_next_clip_is_sampled(
    task: RenderTask, samplings: list[threading.Event], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    real = render.save_audio

    def save(*args: Any, **kwargs: Any) -> Any:
        number = len(written)
        if number < 2:
            assert samplings[number + 1].wait(SECONDS)
        assert not any(event.is_set() for event in samplings[number + 2 :])
        written.append(number)
        return real(*args, **kwargs)

    monkeypatch.setattr(render, "save_audio", save)
    assert len(list(task.render(OutputFiles(tmp_path)))) == 3
    assert written == [0, 1, 2]


def test_a_disk_that_is_full_ends_the_sampling_too(
    task: RenderTask, samplings: list[threading.Event], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(*args: Any, **kwargs: Any) -> Any:
        assert samplings[1].wait(SECONDS)
        raise OSError("full")

    monkeypatch.setattr(render, "save_audio", save)
    with pytest.raises(OSError, match="full"):
        list(task.render(OutputFiles(tmp_path)))
    assert _threads() == 0
    assert not samplings[2].is_set()


def test_a_single_batch_needs_no_thread(
    task: RenderTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []
    real = batches.undecoded

    def sampled(*args: Any, **kwargs: Any) -> Any:
        used.append(threading.current_thread().name)
        return real(*args, **kwargs)

    monkeypatch.setattr(batches, "undecoded", sampled)
    list(task.render(OutputFiles(tmp_path / "one"), batch_size=3))
    assert used == [threading.current_thread().name]
    list(task.render(OutputFiles(tmp_path / "two"), batch_size=2))
    assert used[1:] == ["ahead", "ahead"]


def test_sampling_and_decoding_part_before_batches_shrink(caplog: pytest.LogCaptureFixture) -> None:
    turns, sizes = Turns(together=True), []

    def work(clips: list[Any]) -> Any:
        sizes.append((len(clips), turns.together))
        if len(clips) > 2 or turns.together:
            raise torch.OutOfMemoryError
        return clips

    clips: Any = list("abcdef")
    assert [batch for batch, _ in in_batches(work, clips, 4, turns)] == [["a", "b"], ["c", "d"], ["e", "f"]]
    assert sizes == [(4, True), (4, False), (2, False), (2, False), (2, False)]
    assert "one after the other" in caplog.text


def test_once_parted_only_one_of_the_two_runs() -> None:
    turns, order = Turns(together=True), []
    decoding = threading.Event()

    def decode() -> None:
        with turns.decoding():
            decoding.set()
            time.sleep(0.02)
            order.append("decoded")

    turns.part(torch.OutOfMemoryError())
    thread = threading.Thread(target=decode)
    thread.start()
    assert decoding.wait(SECONDS)
    with turns.sampling():
        order.append("sampled")
    thread.join()
    assert order == ["decoded", "sampled"]
