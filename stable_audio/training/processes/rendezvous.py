"""How the processes of a launcher find each other, and say which of them does not come.

torch itself would wait for half an hour, and would name none that is missing.
"""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch

from stable_audio.data.world import World
from stable_audio.inference.memory.errors import first_line
from stable_audio.training.errors import TrainingError
from stable_audio.training.processes.meeting import Meeting
from stable_audio.training.processes.patience import Patience
from stable_audio.training.processes.stopping import StopRequest
from stable_audio.training.processes.strangers import or_alone
from stable_audio.training.processes.two_worlds import refuse_other_owner, refuse_second

log = logging.getLogger(__name__)

MEET_SECONDS = 300.0
"""How long processes wait for each other to start: torch may be imported from a slow file system."""

LONELY_SECONDS = 120.0
"""How long a process waits for others of which it is not certain that they were started."""

CONNECT_SECONDS = 10.0
"""Longest attempt to reach the first process; signals are seen after it."""

MOST_LISTED = 5
"""Missing processes that a message lists by number."""

AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"
"""The variable by which torchrun tells that it keeps the store of the processes."""


def meet(world: World, *, stop: StopRequest | None = None, seconds: float | None = None) -> Meeting | None:
    """Wait until all processes that a launcher has started are there.

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


def _opened(world: World, patience: Patience) -> Any:
    """The store of the processes, which the first one opens unless its launcher has."""
    _wait_for_name(world, Patience(min(CONNECT_SECONDS, patience.seconds), stop=patience.stop))
    if world.rank == 0 and not _has_agent_store():
        try:
            store = _opened_at(world.address or "", world.port or 0, patience)
        except (torch.distributed.DistError, RuntimeError) as error:
            raise TrainingError(
                f"{world}: port {world.port} of {world.address} cannot be opened to meet the others "
                f"({first_line(error)}); set MASTER_ADDR to the name of the machine of process 0, and "
                "MASTER_PORT to a free port of it, the same for all"
            ) from error
        refuse_other_owner(store, world, seconds=CONNECT_SECONDS)
        return store
    while True:
        try:
            # torch would print a trace of its own calls for each attempt.
            socket.create_connection((world.address or "", world.port or 0), CONNECT_SECONDS).close()
            return _client(world, CONNECT_SECONDS)
        except (torch.distributed.DistError, RuntimeError, OSError) as error:
            log.debug("the first process was not reached", exc_info=error)
            patience.pause(f"process 0 at {world.address}:{world.port}")


def _wait_for_name(world: World, patience: Patience) -> None:
    """Wait until the name of the first machine is known here, for a moment: torch would try for minutes, in
    which it sees no signals.

    Raises:
        TrainingError: it is not.
    """
    while True:
        try:
            socket.getaddrinfo(world.address, world.port)
            return
        except socket.gaierror as error:
            patience.advice = (
                f"{world}; {socket.gethostname()} does not know a machine of that name ({error.strerror}): "
                "set MASTER_ADDR to a name or number of the first machine by which all can reach it"
            )
            patience.pause(f"the address of {world.address}")


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
    return _opened_at("0.0.0.0", 0, patience)


def _opened_at(address: str, port: int, patience: Patience) -> Any:
    """A store of this process; port 0 is any that is free."""
    return torch.distributed.TCPStore(
        address,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=max(patience.seconds, CONNECT_SECONDS)),  # a busy machine answers late
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
    own = torch.distributed.PrefixStore(session, store)
    refuse_second(own, world)
    own.set(f"host {world.rank}", socket.gethostname())
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
    more = ", ..." if len(numbers) > MOST_LISTED else ""
    return ", ".join(f"number {rank}" for rank in numbers[:MOST_LISTED]) + more


def _advice(world: World) -> str:
    if not world.certain:
        return (
            f"{world.launcher} allots {world.size} tasks, and does not say that it has started them: in a "
            f"batch script put `srun` before the command, or ask for one task (--ntasks=1){or_alone(world)}"
        )
    return (
        f"{world.launcher} says that there are {world.size}: start each of them with one launcher (torchrun; "
        "srun in a batch script), with the same MASTER_ADDR and a free MASTER_PORT, and see the logs of the "
        f"others{or_alone(world)}"
    )
