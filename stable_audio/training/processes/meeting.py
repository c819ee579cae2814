"""Processes of a launcher meet before they build anything, and see that they are about to do the same."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch

from stable_audio.data.world import World
from stable_audio.inference.memory.errors import first_line
from stable_audio.training.errors import TrainingError
from stable_audio.training.processes.stopping import ENDING, Interrupted, StopRequest

log = logging.getLogger(__name__)

MEET_SECONDS = 300.0
"""How long processes wait for each other to start: torch may be imported from a slow file system."""

LONELY_SECONDS = 120.0
"""How long a process waits for others of which it is not certain that they were started."""

ANSWER_SECONDS = 1800.0
"""How long processes that have met wait for each other's answers, which may follow minutes of reading."""

TOLD_SECONDS = 20.0
"""Between two lines of the log about a wait."""

CONNECT_SECONDS = 10.0
"""Longest attempt to reach the first process; signals are seen after it."""

MOST_TOLD = 5
"""Differences that are told of one process."""

NOT_BEGUN = "the run has not begun: start all processes again"

AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"
"""The variable by which torchrun tells that it keeps the store of the processes."""

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


class Patience:
    """A wait for other processes, which ends after some time, at a signal, or when one of them has died.

    Args:
        seconds: longest wait.
        stop: signals that end the run.
        verdict: returns the sentence that names a dead process, once there is one.
        advice: what to do when the time is over.
    """

    def __init__(
        self,
        seconds: float,
        *,
        stop: StopRequest,
        verdict: Callable[[], str | None] = lambda: None,
        advice: str = "see the logs of the others, and start all of them again",
    ) -> None:
        self.seconds, self.advice = seconds, advice
        self._stop, self._verdict = stop, verdict
        self._began = time.monotonic()
        self._told = self._began
        self._pause = 0.01

    def pause(self, awaited: str) -> None:
        """Sleep for a moment; raises if the wait is over.

        Args:
            awaited: what this process waits for, for messages.

        Raises:
            TrainingError: the time is over, or a process has died.
            Interrupted: a signal has come to end the run.
        """
        if self._stop.signal in ENDING:
            raise Interrupted(self._stop.signal)
        if (verdict := self._verdict()) is not None:
            raise TrainingError(f"{verdict}; {NOT_BEGUN}")
        now = time.monotonic()
        if now - self._began > self.seconds:
            raise TrainingError(f"waited {self.seconds:g} seconds for {awaited}; {self.advice}")
        if now - self._told > TOLD_SECONDS:
            self._told = now
            log.info("waiting for %s, for %d s", awaited, now - self._began)
        time.sleep(self._pause)
        self._pause = min(0.5, 1.5 * self._pause)


def meet(world: World, *, stop: StopRequest | None = None, seconds: float | None = None) -> Meeting | None:
    """Wait until all processes that a launcher has started are there.

    torch itself would wait for half an hour, and would name none that is missing.

    Args:
        world: the processes.
        stop: signals that end the wait.
        seconds: longest wait; default: `MEET_SECONDS`, or `LONELY_SECONDS` where it is not certain that the
            others were started.

    Returns:
        where they have met; None for a single process.

    Raises:
        TrainingError: they do not come in time, or the place where they are to meet cannot be used.
        Interrupted: a signal has come to end the run.
    """
    if world.size == 1:
        return None
    stop = stop if stop is not None else StopRequest()
    if seconds is None:
        seconds = MEET_SECONDS if world.certain else LONELY_SECONDS
    patience = Patience(seconds, stop=stop, advice=_advice(world))
    store = _opened(world, patience)
    own = _fresh_store(store, patience) if world.rank == 0 else None
    try:
        if world.rank == 0:
            session, port = _welcome(store, world, patience, port=0 if own is None else own.port)
        else:
            session, port = _introduce(store, world, patience)
    except (torch.distributed.DistError, RuntimeError) as error:
        raise TrainingError(
            f"{world}, and lost the others ({first_line(error)}); {patience.advice}"
        ) from error
    if port:
        os.environ[AGENT_STORE] = "False"
    return Meeting(
        store,
        session=session,
        world=replace(world, port=port) if port else world,
        kept=own,
        connect=lambda: _client(world, CONNECT_SECONDS),
        stop=stop,
    )


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


def _opened(world: World, patience: Patience) -> Any:
    """The store of the processes, which the first one opens unless its launcher has."""
    if world.rank == 0 and not _has_agent_store():
        try:
            return torch.distributed.TCPStore(
                world.address or "",
                world.port or 0,
                is_master=True,
                wait_for_workers=False,
                timeout=timedelta(seconds=patience.seconds),
                multi_tenant=True,  # torch opens the same store again
            )
        except (torch.distributed.DistError, RuntimeError) as error:
            raise TrainingError(
                f"{world}: port {world.port} of {world.address} cannot be opened to meet the others "
                f"({first_line(error)}); set MASTER_ADDR to the name of the machine of process 0, and "
                "MASTER_PORT to a free port of it, the same for all"
            ) from error
    while True:
        try:
            # torch would print a trace of its own calls for each attempt.
            socket.create_connection((world.address or "", world.port or 0), CONNECT_SECONDS).close()
            return _client(world, CONNECT_SECONDS)
        except (torch.distributed.DistError, RuntimeError, OSError) as error:
            log.debug("the first process was not reached", exc_info=error)
            patience.pause(f"process 0 at {world.address}:{world.port}")


def _client(world: World, seconds: float) -> Any:
    return torch.distributed.TCPStore(
        world.address or "",
        world.port or 0,
        is_master=False,
        wait_for_workers=False,
        timeout=timedelta(seconds=seconds),
    )


def _has_agent_store() -> bool:
    """Whether torchrun keeps the store itself, as torch asks, too."""
    return os.environ.get(AGENT_STORE) == "True"


def _fresh_store(store: Any, patience: Patience) -> Any | None:
    """A new store of this process for torch, where an earlier start has used the one of torchrun; else None.

    torch would read the addresses that dead processes have left there, and the new ones could not connect.
    """
    if not _has_agent_store() or store.add("starts", 1) == 1:
        return None
    return torch.distributed.TCPStore(
        "0.0.0.0",
        0,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=patience.seconds),
        multi_tenant=True,  # torch opens the same store again
    )


def _introduce(store: Any, world: World, patience: Patience) -> tuple[str, int]:
    """(name of this start, port for torch or 0), from the first process.

    The store may still have what an earlier start has written: a welcome counts if it answers to the name
    that this process has just taken.
    """
    name = uuid.uuid4().hex
    store.set(f"hello {world.rank}", name)
    while True:
        if store.check([f"welcome {world.rank}"]):
            answered, session, port = store.get(f"welcome {world.rank}").decode().split(" ")
            if answered == name:
                break
        patience.pause("process 0")
    torch.distributed.PrefixStore(session, store).set(f"host {world.rank}", socket.gethostname())
    return str(session), int(port)


def _welcome(store: Any, world: World, patience: Patience, *, port: int) -> tuple[str, int]:
    """Give this start a name, and tell it and the port for torch to each process that comes."""
    session = uuid.uuid4().hex
    own = torch.distributed.PrefixStore(session, store)
    own.set("host 0", socket.gethostname())
    missing, answered = set(range(1, world.size)), dict[int, str]()
    while missing:
        for rank in sorted(missing):
            if own.check([f"host {rank}"]):
                missing.discard(rank)
            elif store.check([f"hello {rank}"]):
                name = store.get(f"hello {rank}").decode()
                if name != answered.get(rank):
                    answered[rank] = name
                    store.set(f"welcome {rank}", f"{name} {session} {port}")
        if missing:
            patience.pause(f"{len(missing)} of {world.size} processes, {_listed(missing)}")
    return session, port


def _listed(ranks: Iterable[int]) -> str:
    numbers = sorted(ranks)
    more = ", ..." if len(numbers) > MOST_TOLD else ""
    return ", ".join(f"number {rank}" for rank in numbers[:MOST_TOLD]) + more


def _advice(world: World) -> str:
    if not world.certain:
        return (
            f"{world.launcher} allots {world.size} tasks, and does not say that it has started them: in a "
            "batch script put `srun` before the command, or ask for one task (--ntasks=1)"
        )
    return (
        f"{world.launcher} says that there are {world.size}: start each of them with one launcher (torchrun; "
        "srun in a batch script), with the same MASTER_ADDR and a free MASTER_PORT, and see the logs of the "
        "others"
    )
