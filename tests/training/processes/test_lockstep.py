"""Processes that share each weight call the network equally often, whatever each has to do."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from stable_audio.training.processes.lockstep import in_lockstep


class Processes:
    """Collectives of threads that stand for processes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.values: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=20)
        self.here = threading.local()

    def gather(self, values: list[Any], value: Any, group: None = None) -> None:
        self.values[self.here.rank] = value
        self.barrier.wait()
        values[:] = self.values
        self.barrier.wait()

    def broadcast(self, values: list[Any], *, src: int) -> None:
        everyone: list[Any] = [None] * self.size
        self.gather(everyone, list(values))
        values[:] = everyone[src]

    def run(self, items: list[list[str]]) -> list[list[str]]:
        """What each process iterates over."""
        done: list[list[str]] = [[] for _ in items]

        def work(rank: int) -> None:
            self.here.rank = rank
            done[rank] = list(in_lockstep(items[rank]))

        threads = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return done


@pytest.mark.parametrize(
    ("items", "steps"),
    [
        ([["a", "b"], ["c"], ["d", "e"]], [["a", "b"], ["c", "c"], ["d", "e"]]),
        # One without any borrows; the others' own items stay theirs.
        ([[], ["a", "b"], ["c"]], [["a", "a"], ["a", "b"], ["c", "c"]]),
        ([["a"], [], ["c", "d"]], [["a", "a"], ["a", "a"], ["c", "d"]]),
        ([[], [], []], [[], [], []]),
    ],
)
def test_all_take_as_many_steps_and_their_own_items(
    monkeypatch: pytest.MonkeyPatch, items: list[list[str]], steps: list[list[str]]
) -> None:
    processes = Processes(len(items))
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group: processes.size)
    monkeypatch.setattr(torch.distributed, "all_gather_object", processes.gather)
    monkeypatch.setattr(torch.distributed, "broadcast_object_list", processes.broadcast)
    assert processes.run(items) == steps
