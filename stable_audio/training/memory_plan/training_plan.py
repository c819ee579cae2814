"""What a training run needs of its device, and how that is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stable_audio.inference.memory.operations import Operations
from stable_audio.inference.memory.reserve import readable_size
from stable_audio.training.memory_plan.choice import Choice

NAMES = {
    "weights": "weights",
    "buffers": "buffers",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "ema": "average",
    "gathered": "whole blocks",
    "activations": "activations",
    "checkpoint": "gathered checkpoint",
    "reserve": "libraries",
}
"""Part of a plan -> what it is called in sentences."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Bytes that a training run needs on its device.

    Attributes:
        choice: the settings.
        device: type of the device.
        parts: bytes by what they are for; `activations` is what the greatest moment of a step needs beside
            the others, `checkpoint` what gathering a checkpoint takes more than that.
        moments: bytes in all at each moment of a step, and while a checkpoint is gathered on the device;
            weights and everything else included.
        operations: of the forward and backward passes of a batch.
        assumptions: what the plan rests on, and what it leaves out, as sentences.
        device_bytes: memory of the device, if known.
        largest_batch: clips per batch that fit the device, 0 = not even one; None: not looked for.
        fitting: the cheapest other settings that fit, if these do not; None: there are none, or nothing was
            looked for.
    """

    choice: Choice
    device: str
    parts: Mapping[str, int]
    moments: Mapping[str, int]
    operations: Operations = Operations()  # noqa: RUF009 (frozen)
    assumptions: tuple[str, ...] = ()
    device_bytes: int | None = None
    largest_batch: int | None = None
    fitting: TrainingPlan | None = None

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def without_libraries(self) -> int:
        """Bytes of the run alone."""
        return self.total - self.parts["reserve"]

    @property
    def fits(self) -> bool | None:
        """Whether the run fits the device; None if its memory is unknown."""
        return None if self.device_bytes is None else self.total <= self.device_bytes

    def in_words(self) -> str:
        """The parts with their sizes, the largest first."""
        sizes = sorted(self.parts.items(), key=lambda item: -item[1])
        return ", ".join(f"{NAMES[name]} {readable_size(size)}" for name, size in sizes if size)

    def as_dict(self) -> dict[str, Any]:
        """The plan for JSON."""
        return {
            "settings": {**vars(self.choice), "sharing": vars(self.choice.sharing)},
            "device": self.device,
            "total": self.total,
            "parts": dict(self.parts),
            "moments": dict(self.moments),
            "operations": vars(self.operations),
            "assumptions": list(self.assumptions),
            "device_bytes": self.device_bytes,
            "fits": self.fits,
            "largest_batch": self.largest_batch,
            "fitting": None if self.fitting is None else self.fitting.as_dict(),
        }
