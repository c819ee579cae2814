"""One clip out of overlapping windows, each as long as what a network was trained on.

At every step the network sees one window at a time, and its outputs are averaged where windows overlap
(Bar-Tal et al. 2023, "MultiDiffusion", equation 5, with weights that fall towards the ends of a window).
Since an output is linear in the estimate of x0 at given x, that is the average of the estimates, by every
objective. The memory of the network is that of one window, however long the clip. On a circle, windows reach
over the end into the beginning, so that a clip goes on into itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from stable_audio.diffusion.denoiser import Output, Predict
from stable_audio.nn.transfer import to_device

PredictAt = Callable[[Tensor, Tensor, Tensor], Output]
"""(x of a window (b c size), t (b,), frames of the window (size,)) -> output of the backbone."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Windows of equal size over a clip.

    Attributes:
        frames: of the clip.
        size: of a window; on a circle it may exceed that of the clip, which is then seen more than once.
        overlap: frames that neighbours share at least.
        circular: the clip goes on into itself.

    Raises:
        ValueError: a window as short as the overlap.
    """

    frames: int
    size: int
    overlap: int
    circular: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.size:
            raise ValueError(
                f"windows need 0 <= overlap < size, found overlap {self.overlap} and size {self.size} frames"
            )

    @cached_property
    def starts(self) -> list[int]:
        """The first frame of each window; on a circle evenly spaced, two at least."""
        hop = self.size - self.overlap
        if self.circular:
            count = 2 if self.frames <= self.size else -(-self.frames // hop)
            return sorted({i * self.frames // count for i in range(count)})
        if self.frames <= self.size:
            return [0]
        return [*range(0, self.frames - self.size, hop), self.frames - self.size]

    def indices(self, start: int) -> Tensor:
        """(size,) frames of the window; on a circle modulo its length, else at most those of the clip."""
        places = torch.arange(start, start + self.size)
        return places % self.frames if self.circular else places[places < self.frames]

    def weights(self, start: int) -> Tensor:
        """(size,): 1 in the middle, falling linearly over the overlap at ends inside the clip.

        On a circle of at most one window, the first window counts but for its end, which the other one fills:
        it sees the beginning behind it. So a sound that begins with the clip keeps its onset, which the other
        window would expect half a turn later.
        """
        length = min(self.size, self.frames)
        ramp = (torch.arange(min(self.overlap, length)) + 1) / (self.overlap + 1)
        weights, fade = torch.ones(length), len(ramp)
        whole = self.circular and self.frames <= self.size
        if fade and not whole and (self.circular or start > 0):
            weights[:fade] = torch.minimum(weights[:fade], ramp)
        if fade and (self.circular or start + self.size < self.frames):
            weights[-fade:] = torch.minimum(weights[-fade:], ramp.flip(0))
        if not whole:
            return weights
        if start > 0:
            weights = 1 - weights.roll(-start)
        return torch.cat([weights, torch.zeros(self.size - length)])

    def averaged(self, predict: PredictAt, skip: Tensor | None = None) -> Predict:
        """`predict` of windows -> that of the whole clip.

        Args:
            skip: (n,) bool, frames whose output does not matter; windows of such frames alone are left out,
                and their output is 0.
        """
        windows = [
            (self.indices(start), self.weights(start))
            for start in self.starts
            if skip is None or not bool(skip[self.indices(start)].all())
        ]

        def whole(x: Tensor, t: Tensor) -> Output:
            total, value, uncond = x.new_zeros(x.shape[-1]), torch.zeros_like(x), None
            for frames, weights in windows:
                frames, weights = to_device(frames, x.device), to_device(weights, x.device, x.dtype)
                output = predict(x.index_select(-1, frames), t, frames)
                total.index_add_(0, frames, weights)
                value.index_add_(-1, frames, output.value * weights)
                if output.uncond is not None:
                    uncond = torch.zeros_like(x) if uncond is None else uncond
                    uncond.index_add_(-1, frames, output.uncond * weights)
            total = total.where(total > 0, 1.0)
            return Output(value / total, None if uncond is None else uncond / total)

        return whole
