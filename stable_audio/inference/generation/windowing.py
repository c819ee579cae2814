"""What the network sees of a clip that is longer than what it was trained on, or that is a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from stable_audio.diffusion.denoiser import Output, Predict
from stable_audio.diffusion.windows import Windows
from stable_audio.types import Conditioning, Slot

Guided = Callable[[Conditioning, "Conditioning | None"], Callable[[Tensor, Tensor], Output]]
"""(conditioning, negative conditioning) -> guided backbone."""


def windowed(
    guided: Guided,
    cond: Conditioning,
    negative: Conditioning | None,
    windows: Windows | None,
    skip: Tensor | None = None,
) -> Predict:
    """A guided backbone that sees one window at a time; without windows, whole clips.

    Conditioning without frames is prepared once for all windows. Where it has frames, each window gets its
    own, anew at every step, so that memory does not grow with the length.

    Args:
        skip: as for `Windows.averaged`.
    """
    if windows is None:
        return guided(cond, negative)
    shared = None if has_frames(cond) else guided(cond, negative)

    def predict(x: Tensor, t: Tensor, frames: Tensor) -> Output:
        if shared is not None:
            return shared(x, t)
        part = at_frames(cond, frames, windows.frames)
        other = None if negative is None else at_frames(negative, frames, windows.frames)
        return guided(part, other)(x, t)

    return windows.averaged(predict, skip)


def at_frames(cond: Conditioning, frames: Tensor, count: int) -> Conditioning:
    """Conditioning of a window.

    Args:
        frames: those of the window.
        count: frames of the clip; tensors with another number of frames are read at the same places.
    """

    def cut(value: Tensor) -> Tensor:
        return value.index_select(-1, frames * value.shape[-1] // count)

    values = {slot.field: cond.slot(slot) for slot in Slot if slot.has_frames}
    changes: dict[str, Any] = {name: cut(value) for name, value in values.items() if value is not None}
    if cond.modular_local:
        changes["modular_local"] = {key: cut(value) for key, value in cond.modular_local.items()}
    if cond.padding_mask is not None:
        changes["padding_mask"] = cut(cond.padding_mask)
    return cond.replace(**changes)


def has_frames(cond: Conditioning) -> bool:
    """Whether conditioning follows the frames of a clip."""
    framed = any(slot.has_frames for slot in cond.present())
    return framed or bool(cond.modular_local) or cond.padding_mask is not None
