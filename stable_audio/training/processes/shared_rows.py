"""Let the processes of a run compute the rows of a network's batches together, as for demos."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor

from stable_audio.backbones.base import Backbone
from stable_audio.training.errors import TrainingError
from stable_audio.types import Conditioning

_REPLACED = ("forward", "prepare", "_compiled_call_impl")

FAILING_SECONDS = 20.0
"""How long a process that has failed inside of a network with split weights waits for the others to fail."""


class ElsewhereError(Exception):
    """Another process has failed in what all of them do together."""


class AloneError(TrainingError):
    """This process has failed inside of a network whose weights are split, and another one has not, which
    waits for its part of the weights: the run cannot go on."""


class CommonWork:
    """What processes do together, of which one may fail: all of them leave it at the same point.

    Args:
        any_of: whether a flag is set on one of the processes; all must call it equally often.
        split: the processes have a part each of the network's weights.
        name: a name of this work, the same for all processes, that no other work has.
    """

    def __init__(self, any_of: Callable[[bool], bool], *, split: bool, name: str) -> None:
        self._any_of, self.split, self._name = any_of, split, name
        self._ended = False

    def go_on(self, error: Exception | None = None) -> None:
        """Every process is here, or has failed on the way.

        Args:
            error: why this process has failed.

        Raises:
            ElsewhereError: another process has failed, now or before.
            Exception: `error`.
        """
        if not self._ended:
            self._ended = self._any_of(error is not None)
        if error is not None:
            raise error
        if self._ended:
            raise ElsewhereError("another process has failed, whose log says why")

    def fail(self, error: Exception, *, inside: bool) -> NoReturn:
        """Leave the work because of an error of this process.

        Args:
            inside: it may have come inside of a network, where the others wait for parts of split weights.

        Raises:
            AloneError: this process cannot tell the others that it has failed.
            Exception: `error`.
        """
        alone = inside and self.split and not self._ended and not self._fails_everywhere()
        if alone:
            raise AloneError(
                f"a demo has failed on this process alone ({type(error).__name__}: {error}), and the others "
                "wait for its part of the weights; continue with --recover, which leaves this demo out"
            ) from error
        self.go_on(error)
        raise error

    def compute(self, forward: Callable[[], Tensor]) -> Tensor:
        """What `forward` returns, where all processes have it.

        Raises:
            AloneError: this process cannot tell the others that it has failed.
        """
        try:
            value = forward()
        except Exception as error:
            self.fail(error, inside=True)
        if not self.split:
            self.go_on()
        return value

    def _fails_everywhere(self) -> bool:
        """Whether all processes fail, none of which may wait for another one in the network then."""
        store: Any = torch.distributed.distributed_c10d._get_default_store()
        key, until = f"failed {self._name}", time.monotonic() + FAILING_SECONDS
        failed = store.add(key, 1)
        while failed < torch.distributed.get_world_size() and time.monotonic() < until:
            time.sleep(0.05)
            failed = store.add(key, 0)
        return bool(failed >= torch.distributed.get_world_size())


@contextmanager
def shared_rows(backbone: Backbone, work: CommonWork) -> Iterator[None]:
    """Context in which each process computes its share of the rows of every call, and gets all of them.

    All processes must make the same calls, with the same inputs. That holds for samplers, whatever their
    number of steps: what one decides from the outputs, the others decide, too. Where weights are split,
    processes could not call the network apart from each other.

    Args:
        work: lets all processes leave the context where one of them has failed.
    """
    forward, own = backbone.forward, {n: backbone.__dict__[n] for n in _REPLACED if n in backbone.__dict__}
    processes, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()

    def shared(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        work.go_on()
        count = -(-x.shape[0] // processes)  # a process without rows computes the last one again
        rows = torch.arange(rank * count, (rank + 1) * count, device=x.device).clamp(max=x.shape[0] - 1)
        mine = work.compute(lambda: forward(x[rows], t[rows], cond.index(rows)).contiguous())
        gathered = [torch.empty_like(mine) for _ in range(processes)]
        torch.distributed.all_gather(gathered, mine)
        return torch.cat(gathered)[: x.shape[0]]

    replaced: dict[str, Any] = {
        "forward": shared,
        # Each process needs what belongs to its rows alone.
        "prepare": lambda cond: cond,
        "_compiled_call_impl": None,
    }
    backbone.__dict__.update(replaced)
    try:
        yield
    finally:
        for name in _REPLACED:
            del backbone.__dict__[name]
        backbone.__dict__.update(own)
