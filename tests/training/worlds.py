"""Several processes that train together, as a launcher starts them, for tests.

They are forked from a server that has imported everything once: an interpreter for each would take seconds.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from typing import Any

from tests.quick import quicken

SECONDS = 600.0
"""Longest time that processes may take: some take minutes beside other work."""


def fork_server() -> ForkServerContext:
    """What makes processes that have imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stable_audio.training.trainer", "tests.training.building"])
    return context


def run_world(size: int, work: Callable[..., None], *args: Any, nodes: int = 1) -> None:
    """Call `work(*args)` in `size` processes that find each other by the variables of torchrun.

    Args:
        work: a function of a module.
        nodes: machines that they seem to be on.
    """
    statuses, failures = ended_world(size, work, *args, nodes=nodes)
    assert not failures, "\n".join(failures)
    assert statuses == [0] * size, f"exit statuses {statuses}; a crash prints where it was"


def ended_world(
    size: int, work: Callable[..., None], *args: Any, nodes: int = 1, left_alone: bool = False
) -> tuple[list[int | None], list[str]]:
    """The same for processes some of which may die: their exit statuses, and the tracebacks of errors.

    Args:
        left_alone: the others of one that has failed end by themselves; else they are killed.
    """
    context = fork_server()
    port, reports = free_port(), context.SimpleQueue()
    processes = [
        context.Process(target=_member, args=(rank, size, nodes, port, reports, work, args))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    until = time.monotonic() + SECONDS
    while any(process.is_alive() for process in processes):
        # The others would wait for one that has failed.
        failed = not left_alone and any(process.exitcode for process in processes)
        if failed or time.monotonic() > until:
            for process in processes:
                process.kill()
        time.sleep(0.02)
    for process in processes:
        process.join()
    failures = []
    while not reports.empty():
        failures.append(reports.get())
    return [process.exitcode for process in processes], failures


def launched(rank: int, size: int, port: int, *, nodes: int = 1) -> dict[str, str]:
    """The variables that torchrun gives to a process."""
    here = size // nodes
    places = {
        "RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_RANK": rank % here,
        "LOCAL_WORLD_SIZE": here,
        "GROUP_RANK": rank // here,
        "GROUP_WORLD_SIZE": nodes,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    return {key: str(value) for key, value in places.items()}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _member(
    rank: int, size: int, nodes: int, port: int, reports: Any, work: Callable[..., None], args: Any
) -> None:
    os.environ.update(launched(rank, size, port, nodes=nodes))
    if size == 1:
        os.environ.pop("RANK")
        os.environ.pop("WORLD_SIZE")
    faulthandler.enable()
    import torch

    torch.set_num_threads(1)
    quicken()
    try:
        work(*args)
    except BaseException:
        reports.put(f"process {rank}: {traceback.format_exc()}")
        sys.stdout.flush()
        os._exit(1)  # the others would wait for it
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
