"""What processes that have met tell each other first: whether they are about to do the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from stable_audio.data.world import World
from stable_audio.training.errors import TrainingError
from stable_audio.training.processes.patience import NOT_BEGUN, Patience
from stable_audio.training.processes.stopping import StopRequest

ANSWER_SECONDS = 1800.0
"""How long processes that have met wait for each other's answers, which may follow minutes of reading."""

MOST_TOLD = 5
"""Differences that are told of one process."""

ProcessFacts = Mapping[str, str]
"""What one process is about to do: name -> value, both for people."""


class Meeting:
    """The store by which the processes of one start have met, under a name that no earlier start has used.

    Args:
        store: a connection to it.
        session: the name of this start, the same for all processes.
        world: the processes, with the port at which torch is to let them meet.
        connect: makes another connection to the store.
        stop: signals that end the wait.
        kept: what must stay open as long as the processes work together.

    Attributes:
        world: as above.
        verdict: returns the sentence that names a dead process, once there is one.
    """

    def __init__(
        self,
        store: Any,
        *,
        session: str,
        world: World,
        connect: Callable[[], Any],
        stop: StopRequest,
        kept: object = None,
    ) -> None:
        self.world, self.session = world, session
        self.rank, self.size = world.rank, world.size
        self.verdict: Callable[[], str | None] = lambda: None
        self._store, self._connect, self._stop, self._kept = store, connect, stop, kept
        self._own = torch.distributed.PrefixStore(session, store)

    def connection(self) -> Any:
        """A connection of its own to the store of this start."""
        return torch.distributed.PrefixStore(self.session, self._connect())

    def agree(self, topic: str, facts: ProcessFacts) -> None:
        """Compare what all processes are about to do. Every process must call it with the same topic.

        Args:
            topic: of the facts, for messages.
            facts: those of this process.

        Raises:
            TrainingError: a process has other facts than the first one, or has died; all get this message.
            Interrupted: a signal has come to end the run.
        """
        with self._reaching() as patience:
            sentence = self._compared(topic, facts, patience)
        if sentence:
            raise TrainingError(sentence)

    def told(self, topic: str, text: str) -> list[str]:
        """What all processes tell of a topic, in their order, for the first one; [] for the others. Every
        process must call it.

        Args:
            topic: for messages, such as "its machine".
            text: what this process tells.

        Raises:
            TrainingError: a process has died.
            Interrupted: a signal has come to end the run.
        """
        with self._reaching() as patience:
            self._own.set(f"{topic} {self.rank}", text)
            others = range(1, self.size) if self.rank == 0 else ()
            read = [self._read(f"{topic} {n}", patience, f"what process {n} says of {topic}") for n in others]
        return [text, *read] if self.rank == 0 else []

    @contextmanager
    def _reaching(self) -> Iterator[Patience]:
        """A wait for the other processes, of which the first may have ended.

        Raises:
            TrainingError: it has.
        """
        try:
            yield Patience(ANSWER_SECONDS, stop=self._stop, verdict=self.verdict)
        except (torch.distributed.DistError, RuntimeError) as error:
            verdict = self.verdict() or f"process 0 of {self.size} cannot be reached any more"
            raise TrainingError(f"{verdict}; {NOT_BEGUN}") from error

    def _compared(self, topic: str, facts: ProcessFacts, patience: Patience) -> str:
        """What differs, in words; "" for nothing."""
        self._own.set(f"{topic} {self.rank}", json.dumps(dict(facts)))
        if self.rank == 0:
            self._own.set(f"{topic} verdict", json.dumps(self._apart(topic, facts, patience)))
        sentence = str(json.loads(self._read(f"{topic} verdict", patience, f"what all say of {topic}")))
        self._own.set(f"{topic} read {self.rank}", "")
        if self.rank == 0 and sentence:  # the store may end with this process
            for rank in range(1, self.size):
                self._read(f"{topic} read {rank}", patience, f"process {rank} to read that they differ")
        return sentence

    def _apart(self, topic: str, facts: ProcessFacts, patience: Patience) -> str:
        """What differs between the first process and the first one that differs; "" for nothing."""
        for rank in range(1, self.size):
            theirs = json.loads(
                self._read(f"{topic} {rank}", patience, f"what process {rank} says of {topic}")
            )
            if told := differences(facts, theirs, rank):
                more = f"; and {len(told) - MOST_TOLD} more" if len(told) > MOST_TOLD else ""
                return (
                    f"process {rank} of {self.size} on {self.host(rank)} would not train the same as process "
                    f"0 on {self.host(0)}: {'; '.join(told[:MOST_TOLD])}{more}; start all processes with the "
                    "same command, files and versions"
                )
        return ""

    def host(self, rank: int) -> str:
        """The machine of a process."""
        return str(self._own.get(f"host {rank}").decode())

    def _read(self, key: str, patience: Patience, awaited: str) -> str:
        while not self._own.check([key]):
            patience.pause(awaited)
        return str(self._own.get(key).decode())


def differences(facts: ProcessFacts, others: ProcessFacts, rank: int) -> list[str]:
    """In which facts a process differs from the first one, in words.

    Args:
        facts: those of the first process.
        others: those of the other one.
        rank: its number.
    """
    pairs = {name: (others.get(name, "not set"), facts.get(name, "not set")) for name in {**facts, **others}}
    return [
        f"{name} is {theirs} in process {rank} and {ours} in process 0"
        for name, (theirs, ours) in pairs.items()
        if theirs != ours
    ]
