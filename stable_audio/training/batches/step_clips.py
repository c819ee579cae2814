"""The clips of a step on all processes, and what differs when a run goes on with others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stable_audio.wording import plural


@dataclass(frozen=True, kw_only=True)
class StepClips:
    """How the clips of one optimizer step are shared.

    Attributes:
        processes: of the run.
        batch_size: clips per batch and process.
        accum_batches: batches of each process per step.
    """

    processes: int
    batch_size: int
    accum_batches: int

    @classmethod
    def of(cls, start: Mapping[str, Any]) -> StepClips | None:
        """Those of a start in the record of a run; None where it does not say all of it."""
        options = start.get("options")
        if not isinstance(options, Mapping):
            return None
        stored = (start.get("processes"), options.get("batch_size"), options.get("accum_batches"))
        counts = [value for value in stored if isinstance(value, int) and value > 0]
        if len(counts) < len(stored):
            return None
        return cls(processes=counts[0], batch_size=counts[1], accum_batches=counts[2])

    @property
    def batch(self) -> int:
        """Clips of a batch of all processes, on which the order of the data and the noise depend."""
        return self.processes * self.batch_size

    @property
    def step(self) -> int:
        """Clips of a step."""
        return self.batch * self.accum_batches

    def __str__(self) -> str:
        processes = f"{plural(self.processes, 'process')} x {self.batch_size}"
        batches = "" if self.accum_batches == 1 else f" x {self.accum_batches} batches"
        return f"{plural(self.step, 'clip')} ({processes}{batches})"


def other_clips(before: StepClips, now: StepClips) -> str | None:
    """What differs from here on between two starts of a run, and how to keep it, in one sentence.

    Returns:
        None where they have the same clips in each batch of all processes, and as many batches in a step.
    """
    if before.batch == now.batch and before.accum_batches == now.accum_batches:
        return None
    differs = "the order of the data and the noise differ" if before.batch != now.batch else "steps differ"
    return f"a step had {before} and has {now}, so that {differs} from here; {_keeping(before, now)}"


def _keeping(before: StepClips, now: StepClips) -> str:
    flags = f"--global-batch-size {before.step}"
    if before.accum_batches != now.accum_batches:
        flags += f" with --accum-batches {before.accum_batches}"
    if before.batch % now.processes == 0:
        return f"{flags} keeps them"
    return f"{flags} keeps them on a number of processes that divides {before.batch}"
