"""Processes with parts of each weight compute together: all of them call the network equally often."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import torch

from stable_audio.training.processes.gathering import of_all

T = TypeVar("T")


def in_lockstep(items: Iterable[T]) -> Iterator[T]:
    """The items of this process, and behind them repetitions until the last process is done.

    A process without any item gets one of another process. Every process of the run must iterate.

    Raises:
        errors of iterating `items`, once all processes are done.
    """
    iterator = iter(items)
    latest: list[T] = []
    failure: Exception | None = None
    while True:
        current: list[T] = []
        if failure is None:
            try:
                current = list(islice(iterator, 1))
            except Exception as error:
                failure = error
        latest = current or latest
        states = of_all((bool(current), bool(latest)))
        if not any(has for has, _ in states):
            break
        if not all(had for _, had in states):
            # A list of its own: those who have an item keep it.
            shared: list[Any] = [*latest] or [None]
            source = next(rank for rank, (_, had) in enumerate(states) if had)
            torch.distributed.broadcast_object_list(shared, src=source)
            latest = latest or shared
        yield latest[0]
    if failure is not None:
        raise failure
