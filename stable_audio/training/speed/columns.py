"""Speed of a run for its log lines: parts of a step, operations, padding, memory, slow processes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch

from stable_audio.data.base import Batch
from stable_audio.inference.memory.operations import Operations
from stable_audio.training.speed.clock import PARTS, PartTimes

SHARED = ("backward", "optimizer", "other")
"""Parts in which a process may wait for the others, whose time says nothing about itself."""


@dataclass(frozen=True)
class Nominal:
    """What the speed of a run is compared with.

    Attributes:
        operations: of a whole batch of one process.
        peak: operations per second that its device can reach.
    """

    operations: Operations
    peak: float


@dataclass
class BatchCount:
    """What the batches of a process held, in units of whole batches.

    Attributes:
        batches: number of batches.
        frames: their frames, padding included, by those of a whole batch.
        pairs: the same of pairs of frames of one clip, which self-attention compares.
        padding: sum of the shares of padding.
    """

    batches: float = 0.0
    frames: float = 0.0
    pairs: float = 0.0
    padding: float = 0.0

    def add(self, batch: Batch, *, items: int, row: int) -> None:
        """Count a batch.

        Args:
            items: rows of a whole batch.
            row: frames of a row.
        """
        length = batch.audio.shape[-1]
        lengths: Sequence[int] = [length] * batch.audio.shape[0]
        if batch.packed is not None:  # clips side by side, without the padding that the tensor has
            lengths = batch.packed.lengths
        self.batches += 1
        self.frames += sum(lengths) / (items * row)
        self.pairs += sum(n * n for n in lengths) / (items * row * row)
        self.padding += 0.0 if batch.packed is not None else padding_share(batch)

    def operations(self, whole: Operations) -> float:
        """Operations of the model for these batches, if a whole one takes `whole`."""
        return (whole.model - whole.self_attention) * self.frames + whole.self_attention * self.pairs


def padding_share(batch: Batch) -> float:
    """Share of the frames of a batch that are padding; clips without a padding mask have none."""
    shares = [
        1 - float(mask.sum()) / max(len(mask), 1)
        for mask in (item.get("padding_mask") for item in batch.metadata)
        if mask is not None
    ]
    return sum(shares) / max(len(batch.metadata), 1)


@dataclass(frozen=True)
class Measured:
    """What a process has measured since its last log line, all as numbers that can be gathered.

    Attributes:
        steps: optimizer steps.
        seconds: that they took, without demos, validation and checkpoints.
        memory: most bytes that the process has had of its device, of the host without one.
        times: seconds of the parts of its steps; on a GPU, where times arrive later, of others than these.
        count: what the batches held.
    """

    steps: int
    seconds: float
    memory: int
    times: PartTimes
    count: BatchCount

    def numbers(self) -> list[float]:
        """All values in a fixed order."""
        parts = [self.times.seconds.get(part, 0.0) for part in PARTS]
        return [self.steps, self.seconds, self.memory, self.times.steps, *parts, *astuple(self.count)]

    @classmethod
    def from_numbers(cls, numbers: Sequence[float]) -> Measured:
        """The opposite of `numbers`."""
        steps, seconds, memory, timed, *rest = numbers
        times = PartTimes(int(timed), dict(zip(PARTS, rest)))
        return cls(int(steps), seconds, int(memory), times, BatchCount(*rest[len(PARTS) :]))


def speed_columns(
    processes: Sequence[Measured], *, nominal: Nominal | None, batch_seconds: float
) -> dict[str, float]:
    """Columns of a log line.

    Args:
        processes: what each process has measured.
        nominal: operations of a batch and the peak of a device, if they are known.
        batch_seconds: seconds of audio that all processes together consume per optimizer step.
    """
    steps, seconds = processes[0].steps, processes[0].seconds
    audio = steps * batch_seconds / max(seconds, 1e-9)
    batches = sum(p.count.batches for p in processes)
    columns = {
        "speed/steps_per_second": steps / max(seconds, 1e-9),
        "speed/audio_seconds_per_second": audio,
        "speed/audio_seconds_per_second_per_device": audio / len(processes),
        "speed/padding_share": sum(p.count.padding for p in processes) / max(batches, 1),
        "speed/peak_memory_gib": max(p.memory for p in processes) / 2**30,
    }
    if nominal is not None:
        rates = [p.count.operations(nominal.operations) / max(p.seconds, 1e-9) for p in processes]
        rate = sum(rates) / len(rates)
        columns |= {"speed/tflops": rate / 1e12, "speed/mfu": rate / nominal.peak}
    return {**columns, **_parts(processes), **_slowest(processes)}


def _parts(processes: Sequence[Measured]) -> dict[str, float]:
    timed = sum(p.times.steps for p in processes)
    if timed == 0:
        return {}
    return {f"speed/time_{part}": sum(p.times.seconds[part] for p in processes) / timed for part in PARTS}


def _slowest(processes: Sequence[Measured]) -> dict[str, float]:
    """The process that takes longest for what it does alone, and by which share of a step the others wait."""
    if len(processes) == 1 or any(p.times.steps == 0 for p in processes):
        return {}
    own = [_per_step(p, [part for part in PARTS if part not in SHARED]) for p in processes]
    whole = sum(_per_step(p, PARTS) for p in processes) / len(processes)
    slowest = max(range(len(own)), key=own.__getitem__)
    return {
        "speed/slowest_process": float(slowest),
        "speed/slowest_process_lag": (own[slowest] - sum(own) / len(own)) / max(whole, 1e-9),
    }


def _per_step(process: Measured, parts: Sequence[str]) -> float:
    return sum(process.times.seconds[part] for part in parts) / process.times.steps


def peak_memory(device: torch.device) -> int:
    """Most bytes of the device that this process has had so far; without a GPU, of the memory of the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
