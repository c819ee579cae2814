"""Notice within a minute that a process of a run has died: the others would wait for it in silence.

A process that waits in a collective operation for one that is gone gets an error minutes later, from some
back ends, or never, and no error names the process. Every process therefore writes a sign of life into the
store by which they have met; the first one reads all of them, the others read that of the first one.
"""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from stable_audio.incidents import incident

log = logging.getLogger(__name__)

GRACE_SECONDS = 8.0
"""How long a process may take to see by itself that another one is gone, before it is ended."""

LOST_SECONDS = 12.0
"""How long a process may be silent once a connection between processes is lost: torchrun ends all others, by
force 30 seconds after it has noticed that one is gone."""

_DONE = "done"


class Heartbeat:
    """Signs of life of this process, and the watch over those of the others.

    Args:
        store: a connection to the processes' store that nothing else uses.
        rank: number of this process.
        size: number of processes.
        seconds: after so many without a sign of life a process is taken for dead.
        give_up: ends this process, whose main thread waits for a dead one; gets the sentence that says so.
        children: processes that this one has started, numbered from 1.
        host: name of this machine.

    Attributes:
        verdict: the sentence that names the dead process, once there is one.
    """

    def __init__(
        self,
        store: Any,
        *,
        rank: int,
        size: int,
        seconds: float,
        give_up: Callable[[str], None],
        children: Sequence[subprocess.Popen[Any]] = (),
        host: str | None = None,
    ) -> None:
        self.rank, self.size, self.seconds = rank, size, seconds
        self.verdict: str | None = None
        self._store, self._give_up, self._children = store, give_up, children
        self._host = host if host is not None else socket.gethostname()
        self._hosts: dict[int, str] = {}
        self._seen: dict[int, tuple[str, float]] = {}
        self._beats = 0
        self._looked = time.monotonic()
        self._known, self._stop, self._leaving = threading.Event(), threading.Event(), threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    @property
    def interval(self) -> float:
        """Seconds between two signs of life."""
        return min(5.0, self.seconds / 8)

    def start(self) -> Heartbeat:
        """Begin to give signs of life, and to watch."""
        self._store.set(f"host {self.rank}", self._host)
        self._thread.start()
        return self

    def leave(self) -> None:
        """The main thread of this process has an error and ends by itself, after it has saved what it can."""
        self._leaving.set()

    def stop(self, failure: str | None = None) -> None:
        """End the watch, since this process ends.

        Args:
            failure: why it ends before the others expect it, for them; None: it ends with them.
        """
        self._leaving.set()
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(self.interval)  # its last sign of life comes before what follows
        try:
            if failure is not None:
                if self.verdict is None:
                    self._accuse(self.rank, f"has ended with an error ({failure.splitlines()[0][:500]})")
                self._wait_until_told(min(GRACE_SECONDS, self.seconds))
            else:
                self._store.set(f"beat {self.rank}", _DONE)
        except (RuntimeError, OSError) as error:
            log.debug("the other processes were not told of the end", exc_info=error)
        if failure is not None:
            self._end_children(min(GRACE_SECONDS, self.seconds))

    def _end_children(self, seconds: float = 0.0) -> None:
        """The processes that this one has started end with it: by themselves, or else by force."""
        until = time.monotonic() + seconds
        for child in self._children:
            try:
                child.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()

    def _wait_until_told(self, seconds: float) -> None:
        """The first process, with which the store may end, lets the others read the verdict."""
        self._store.set(f"told {self.rank}", "")
        if self.rank > 0:
            return
        dead = json.loads(self._store.get("dead"))["rank"]
        awaited = [f"told {rank}" for rank in range(1, self.size) if rank != dead]
        until = time.monotonic() + seconds
        while time.monotonic() < until and awaited and not self._store.check(awaited):
            time.sleep(0.05)

    def wait_for_verdict(self) -> str | None:
        """The sentence that names a dead process, once a connection is lost; waits as long as that takes."""
        self._lost.set()
        self._known.wait(self.seconds + 3 * self.interval)
        return self.verdict

    def _run(self) -> None:
        answered = time.monotonic()
        while not self._stop.is_set():
            try:
                self._beat()
                answered = time.monotonic()
            except (RuntimeError, OSError) as error:  # what torch raises for lost connections
                log.debug("no connection to the other processes", exc_info=error)
                if time.monotonic() - answered > self._patience and not self._stop.is_set():
                    self._conclude(
                        f"{self._named(0)} cannot be reached any more: it has died, or its machine"
                    )
            if self.verdict is not None:
                self._end()
                return
            self._stop.wait(self.interval)

    def _acknowledge(self) -> None:
        try:
            self._store.set(f"told {self.rank}", "")
        except (RuntimeError, OSError) as error:
            log.debug("the first process is gone", exc_info=error)

    def _beat(self) -> None:
        """Give a sign of life and look at those of the others."""
        self._beats += 1
        self._store.set(f"beat {self.rank}", str(self._beats))
        self._learn_host(0)
        self._share_loss()
        if self._store.check(["dead"]):
            self._conclude(json.loads(self._store.get("dead"))["sentence"])
            return
        for number, child in enumerate(self._children, start=1):
            if child.poll():
                self._accuse(number, f"has ended with status {child.returncode}")
                return
        watched = range(1, self.size) if self.rank == 0 else range(1)
        now = time.monotonic()
        if now - self._looked > self.seconds / 2:
            # This process itself was stopped, as by Ctrl-Z, and probably the others with it.
            self._seen = {rank: (sign, now) for rank, (sign, _) in self._seen.items()}
        self._looked = now
        for rank, sign in zip(watched, self._signs(watched)):
            before, since = self._seen.get(rank, ("", now))
            self._seen[rank] = (sign, now if sign != before else since)
            silent = now - self._seen[rank][1]
            if sign != _DONE and silent > self._patience:
                self._accuse(
                    rank, f"has given no sign of life for {silent:.0f} s: it has died, or cannot be reached"
                )
                return

    @property
    def _patience(self) -> float:
        """Seconds of silence after which a process is taken for dead."""
        return min(self.seconds, LOST_SECONDS) if self._lost.is_set() else self.seconds

    def _share_loss(self) -> None:
        """Let the first process know that a connection was lost, which another one may see alone."""
        if self._lost.is_set():
            self._store.set("lost", "")
        elif self._store.check(["lost"]):
            self._lost.set()

    def _signs(self, ranks: range) -> list[str]:
        """The last sign of each process, "" before its first."""
        keys = [f"beat {rank}" for rank in ranks]
        if self._store.check(keys):
            return [value.decode() for value in self._store.multi_get(keys)]
        return [self._store.get(key).decode() if self._store.check([key]) else "" for key in keys]

    def _accuse(self, rank: int, what: str) -> None:
        self._learn_host(rank)
        sentence = f"{self._named(rank)} {what}"
        told = self._store.compare_set("dead", "", json.dumps({"rank": rank, "sentence": sentence}))
        self._conclude(json.loads(told)["sentence"])

    def _learn_host(self, rank: int) -> None:
        if rank not in self._hosts and self._store.check([f"host {rank}"]):
            self._hosts[rank] = self._store.get(f"host {rank}").decode()

    def _named(self, rank: int) -> str:
        return f"process {rank} of {self.size} on {self._hosts.get(rank, 'an unknown machine')}"

    def _conclude(self, sentence: str) -> None:
        if self.verdict is None:
            self.verdict = sentence
            self._known.set()

    def _end(self) -> None:
        """Let the main thread end, or end the process if that waits for a dead one."""
        if not self._stop.is_set():
            log.error("%s; the run ends, and continues with --recover", self.verdict, extra=_incident())
        self._acknowledge()
        if not self._leaving.wait(min(GRACE_SECONDS, self.seconds)):
            self._end_children()
            self._give_up(str(self.verdict))


def _incident() -> dict[str, Any]:
    return incident("dead process")


def own_store(timeout: float) -> Any | None:
    """A connection of its own to the store by which the processes have met; None if that is not on a network.

    The group's own connection may be held for minutes by a thread that waits.
    """
    from datetime import timedelta

    store: Any = torch.distributed.distributed_c10d._get_default_store()
    while isinstance(store, torch.distributed.PrefixStore):
        store = store.underlying_store
    if not isinstance(store, torch.distributed.TCPStore):
        return None
    return torch.distributed.TCPStore(
        store.host, store.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=timeout)
    )


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error is of communication between processes, which another one has probably caused."""
    if isinstance(error, torch.distributed.DistError):
        return True
    sayings = ("connection closed by peer", "connection reset", "broken pipe", "gloo", "nccl", "socket")
    return isinstance(error, RuntimeError) and any(saying in str(error).lower() for saying in sayings)
