"""Two groups of processes that got the same place to meet, such as the parts of a heterogeneous job that were
started one by one: neither may take processes of the other for its own."""

from __future__ import annotations

import socket
import uuid
from datetime import timedelta
from typing import Any

import torch

from stable_audio.data.world import World
from stable_audio.training.errors import TrainingError

_OWNER = "owner"
"""Key of the name of the process that has opened a store."""

_ADVICE = (
    "start all of them with one command (of a heterogeneous SLURM job: `srun --het-group=0,1`), or give each "
    "run a MASTER_PORT and a --name of its own"
)


def refuse_other_owner(store: Any, world: World, *, seconds: float) -> None:
    """Refuse that another process than this one, which has opened `store`, answers at the world's address.

    Args:
        store: of this process, the first one of its world.
        seconds: longest attempt to reach the address. One that cannot be reached from here may still be so
            from elsewhere.

    Raises:
        TrainingError: another process answers.
    """
    name = uuid.uuid4().hex
    store.set(_OWNER, name)
    place = (world.address or "", world.port or 0)
    try:
        socket.create_connection(place, seconds).close()
        there = torch.distributed.TCPStore(
            *place, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=seconds)
        )
        found = there.get(_OWNER).decode() if there.check([_OWNER]) else ""
    except (torch.distributed.DistError, RuntimeError, OSError):
        return
    if found != name:
        raise TrainingError(
            f"{world}, runs on {socket.gethostname()}, and at {place[0]}:{place[1]} (MASTER_ADDR, "
            f"MASTER_PORT), where the others would look for it, another process 0 answers; {_ADVICE}"
        )


def refuse_second(own: Any, world: World) -> None:
    """Refuse a process whose number another one has already in this start.

    Args:
        own: the store of this start.

    Raises:
        TrainingError: it is the second one.
    """
    if own.add(f"joined {world.rank}", 1) > 1:
        raise TrainingError(f"{world}, and another one with this number has met the others before; {_ADVICE}")
