"""Data workers that are killed are replaced, and no batch is lost or comes twice."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch.utils.data import dataloader
from torch.utils.data._utils import signal_handling

from stable_audio.data.base import DataError, ItemKey
from stable_audio.data.loader import make_loader
from stable_audio.data.worker_deaths import MOST_DEATHS, DeathWatch, DoneEvent
from tests.data.test_loader import Numbers, content


def _kill_the_workers() -> None:
    """All of them, since those that were replaced may be among them for a moment."""
    for worker in multiprocessing.active_children():
        os.kill(worker.pid or 0, signal.SIGKILL)
        worker.join()


@pytest.mark.parametrize("endless", [True, False])
def test_a_killed_worker_is_replaced_and_the_batches_are_the_same(
    endless: bool, caplog: pytest.LogCaptureFixture
) -> None:
    found = []
    for kills in ((), (0, 3, 9)):
        loader = make_loader(Numbers(40), batch_size=2, num_workers=2 if kills else 0, endless=endless)
        batches = []
        for number, batch in enumerate(loader):
            batches.append(content(batch))
            if number in kills:
                _kill_the_workers()
            if endless and number == 45:
                break
        found.append((batches, loader.state_dict()))
    assert found[0] == found[1]
    assert caplog.text.count("a data worker was killed") == 3
    kinds = [record.incident["kind"] for record in caplog.records if hasattr(record, "incident")]
    assert kinds == ["data worker died"] * 3


# torch may be opening files, to see whether it can, when the signal comes.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_worker_that_dies_with_a_lock_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers look at torch's event under a lock, which one that is killed meanwhile never releases."""
    begin, events = dataloader._MultiProcessingDataLoaderIter.__init__, []

    def beginning(self: Any, loader: Any) -> None:
        begin(self, loader)
        events.append(self._workers_done_event)

    monkeypatch.setattr(dataloader._MultiProcessingDataLoaderIter, "__init__", beginning)
    loader = iter(make_loader(Numbers(40), batch_size=2, num_workers=2, endless=False))
    first = next(loader)
    assert events[0]._cond.acquire(True, 60)
    os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
    plain = make_loader(Numbers(40), batch_size=2, endless=False)
    assert [content(batch) for batch in (first, *loader)] == [content(batch) for batch in plain]


def test_a_worker_that_dies_while_it_sends_is_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its connection closes a moment before the system says that it is dead."""
    get, killed = dataloader._MultiProcessingDataLoaderIter._try_get_data, []

    def getting(self: Any, *args: Any, **options: Any) -> Any:
        if not killed:
            killed.append(self._workers[0].pid)
            threading.Timer(0.2, os.kill, (killed[0], signal.SIGKILL)).start()
            raise EOFError
        return get(self, *args, **options)

    monkeypatch.setattr(dataloader._MultiProcessingDataLoaderIter, "_try_get_data", getting)
    loader = make_loader(Numbers(12), batch_size=2, num_workers=2, endless=False)
    plain = make_loader(Numbers(12), batch_size=2, endless=False)
    assert [content(batch) for batch in loader] == [content(batch) for batch in plain]
    assert caplog.text.count("a data worker was killed") == 1


def test_the_event_of_the_workers_is_set_for_them() -> None:
    event = multiprocessing.get_context("fork").Event()
    done = DoneEvent(event)
    assert not done.is_set()
    done.set()
    done.set()
    assert done.is_set()
    assert event.is_set()


def test_a_worker_that_dies_where_nobody_waits_disturbs_nothing() -> None:
    loader = iter(make_loader(Numbers(40), batch_size=2, num_workers=1))
    first = next(loader)
    _kill_the_workers()  # torch's handler would raise here
    assert len(torch.ones(3)) == 3
    second = next(loader)
    plain = iter(make_loader(Numbers(40), batch_size=2))
    assert [content(first), content(second)] == [content(next(plain)), content(next(plain))]


def test_a_worker_may_die_before_it_has_anything_to_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first workers of a process begin under torch's own handler, which raises wherever it is."""
    loader = make_loader(Numbers(8), batch_size=2, num_workers=1, endless=False)
    walk, begun = loader.sampler.walk, []

    def deadly(**options: bool) -> Iterator[tuple[list[ItemKey], dict[str, int]]]:
        if not begun:
            begun.append(True)
            (worker,) = multiprocessing.active_children()
            os.kill(worker.pid or 0, signal.SIGKILL)
            os.waitid(os.P_PID, worker.pid or 0, os.WEXITED | os.WNOWAIT)
        return walk(**options)

    monkeypatch.setattr(loader.sampler, "walk", deadly)
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)
    try:
        found = [content(batch) for batch in loader]
    finally:
        signal.signal(signal.SIGCHLD, before)
    plain = make_loader(Numbers(8), batch_size=2, endless=False)
    assert begun
    assert found == [content(batch) for batch in plain]
    assert caplog.text.count("a data worker was killed") == 1


class _Deadly(Numbers):
    """A dataset that kills whoever reads it."""

    def __getitem__(self, key: ItemKey) -> tuple[torch.Tensor, dict]:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_workers_that_die_again_and_again_are_an_error() -> None:
    with pytest.raises(DataError, match=rf"died {MOST_DEATHS + 1} times without a batch.*--num-workers 0"):
        next(iter(make_loader(_Deadly(8), batch_size=2, num_workers=1)))


def test_the_watch_tells_of_a_death_at_the_next_wait() -> None:
    told: list[int] = []

    def tell(number: int, frame: FrameType | None) -> None:
        told.append(number)

    watch = DeathWatch(tell)
    watch(signal.SIGCHLD, None)
    assert told == []
    with watch.waiting():
        assert len(told) == 1
        watch(signal.SIGCHLD, None)
        assert len(told) == 2
    with watch.waiting():
        assert len(told) == 2


@pytest.mark.slow
def test_a_death_is_seen_outside_the_main_thread(tmp_path: Path) -> None:
    found = []

    def read() -> None:
        for number, batch in enumerate(make_loader(Numbers(40), batch_size=2, num_workers=1)):
            found.append(content(batch))
            if number == 2:
                _kill_the_workers()
            if number == 8:
                return

    thread = threading.Thread(target=read)
    thread.start()
    thread.join(60)
    plain = iter(make_loader(Numbers(40), batch_size=2))
    assert found == [content(next(plain)) for _ in range(9)]
