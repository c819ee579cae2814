"""The time that each part of a training step takes, measured without waiting for the device."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

PARTS = (
    "data",
    "transfer",
    "conditioning",
    "pretransform",
    "forward",
    "backward",
    "optimizer",
    "other",
)
"""Parts of a step: waiting for a batch, moving it to the device, conditioners, encoding, all else up to the
loss, the backward pass, optimizer with clipping and average, and what is left, such as log lines."""


@dataclass(frozen=True)
class PartTimes:
    """Seconds that the parts of some steps took.

    Attributes:
        steps: optimizer steps.
        seconds: part -> seconds of all these steps together.
    """

    steps: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)


class StepClock:
    """Divides the time of steps among their parts. At any moment one part is timed.

    On a GPU the times are those of the device: events are put between the work that is queued, and read when
    the device has passed them, so that the host never waits; times then arrive some steps late. Elsewhere
    they are the host's. A clock that has not been started times nothing.
    """

    def __init__(self) -> None:
        self._source: _HostTimes | _DeviceEvents | None = None
        self._part: str | None = None

    def start(self, device: torch.device) -> None:
        """Begin to time, in the part "other"."""
        self._source = _DeviceEvents() if device.type == "cuda" else _HostTimes()
        self._part = "other"

    def stop(self) -> None:
        """Time nothing until the next `start`."""
        self._source = self._part = None

    def switch(self, part: str | None) -> None:
        """End the present part, and begin another one; None: what follows is not of any step."""
        if self._source is not None:
            self._source.end(self._part)
            self._part = part

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Context that counts as a part, unless what is done now is of no step; then the part before it goes
        on."""
        outer = self._part
        if outer is None:
            yield
            return
        self.switch(name)
        try:
            yield
        finally:
            self.switch(outer)

    def end_step(self) -> None:
        """Count an optimizer step."""
        if self._source is not None:
            self._source.end_step()

    def take(self) -> PartTimes:
        """The times that have arrived since the last call, those of the open part included."""
        self.switch(self._part)
        return PartTimes() if self._source is None else self._source.take()


class _HostTimes:
    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._seconds: dict[str, float] = {}
        self._steps = 0

    def end(self, part: str | None) -> None:
        now = time.perf_counter()
        if part is not None:
            self._seconds[part] = self._seconds.get(part, 0.0) + now - self._began
        self._began = now

    def end_step(self) -> None:
        self._steps += 1

    def take(self) -> PartTimes:
        times = PartTimes(self._steps, self._seconds)
        self._seconds, self._steps = {}, 0
        return times


class _DeviceEvents:
    """Events of the device between the parts; those that it has passed are used again."""

    def __init__(self) -> None:
        self._spare: list[torch.cuda.Event] = []
        self._passed = self._recorded()
        self._queued: deque[tuple[str | None, torch.cuda.Event | None]] = deque()
        self._seconds: dict[str, float] = {}
        self._steps = 0

    def end(self, part: str | None) -> None:
        self._queued.append((part, self._recorded()))

    def end_step(self) -> None:
        self._queued.append((None, None))
        self._read()

    def take(self) -> PartTimes:
        self._read()
        times = PartTimes(self._steps, self._seconds)
        self._seconds, self._steps = {}, 0
        return times

    def _read(self) -> None:
        """Read the events that the device has passed."""
        while self._queued:
            part, event = self._queued[0]
            if event is None:
                self._steps += 1
            elif not event.query():
                return
            else:
                if part is not None:
                    seconds = self._passed.elapsed_time(event) / 1e3
                    self._seconds[part] = self._seconds.get(part, 0.0) + seconds
                self._spare.append(self._passed)
                self._passed = event
            self._queued.popleft()

    def _recorded(self) -> torch.cuda.Event:
        event = self._spare.pop() if self._spare else torch.cuda.Event(enable_timing=True)
        event.record()
        return event
