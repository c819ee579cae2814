"""The queue: which waiting jobs an idle device renders next, and how many of them together."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class WaitingJob:
    """A job in the queue.

    Attributes:
        id: of the job.
        client: whose it is.
        key: jobs with equal keys can be rendered together; None: with no other.
        since: time (of time.monotonic()) from which it waits.
    """

    id: str
    client: str
    key: Hashable = None
    since: float = 0.0


class WaitingJobs:
    """Waiting jobs of all clients, who take turns: one with many delays no other by more than a batch."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, deque[WaitingJob]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def of_client(self, client: str) -> int:
        """The number of jobs of a client."""
        return len(self._clients.get(client, ()))

    def add(self, job: WaitingJob, *, first: bool = False) -> None:
        """Put a job behind those of its client, or before them, where it was before."""
        jobs = self._clients.setdefault(job.client, deque())
        (jobs.appendleft if first else jobs.append)(job)
        self._count += 1

    def remove(self, id: str) -> bool:
        """Take a job out; whether it was there."""
        for client, jobs in self._clients.items():
            for job in jobs:
                if job.id == id:
                    jobs.remove(job)
                    self._count -= 1
                    if not jobs:
                        del self._clients[client]
                    return True
        return False

    def in_turn(self) -> Iterator[WaitingJob]:
        """The jobs in the order in which they would be begun one by one."""
        queues = [list(jobs) for jobs in self._clients.values()]
        for turn in range(max(map(len, queues), default=0)):
            yield from (jobs[turn] for jobs in queues if turn < len(jobs))

    def position(self, id: str) -> int | None:
        """How many jobs come before this one; None: it does not wait."""
        return next((number for number, job in enumerate(self.in_turn()) if job.id == id), None)

    def positions(self) -> dict[str, int]:
        """How many jobs come before each, by its identifier."""
        return {job.id: number for number, job in enumerate(self.in_turn())}

    def peek(self, size: int) -> list[WaitingJob]:
        """The next batch of at most `size`: the job whose turn it is, and those that go with it.

        Of these, too, clients take turns.
        """
        batch: list[WaitingJob] = []
        for job in self.in_turn():
            if len(batch) >= size:
                break
            if not batch or (job.key is not None and job.key == batch[0].key):
                batch.append(job)
        return batch

    def take(self, size: int) -> list[WaitingJob]:
        """Take the next batch out; its first client then has its turn after all others."""
        batch = self.peek(size)
        for job in batch:
            self.remove(job.id)
        if batch and batch[0].client in self._clients:
            self._clients.move_to_end(batch[0].client)
        return batch
