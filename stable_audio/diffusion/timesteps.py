"""Timestep samplers: the distribution of t in training, and the reproducible stream that feeds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from stable_audio.diffusion.shift import TimeShift


class TimestepSampler:
    """Base of the distributions of t.

    Attributes:
        base: distribution of the draws that `transform` expects: uniform in [0, 1) or standard normal.
    """

    base: Literal["uniform", "normal"]

    def transform(self, draws: Tensor) -> Tensor:
        """Base draws (n,) -> t (n,) in [0, 1]."""
        raise NotImplementedError

    def __call__(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """n independent values of t; training uses `Timesteps`, which spreads them evenly."""
        draw = torch.rand if self.base == "uniform" else torch.randn
        return self.transform(draw(n, generator=generator))


class Uniform(TimestepSampler):
    """t uniform in [0, 1)."""

    base = "uniform"

    def transform(self, draws: Tensor) -> Tensor:
        return draws


class LogitNormal(TimestepSampler):
    """t = sigmoid(z) (Esser et al. 2024, section 3.1, with mean 0 and deviation 1)."""

    base = "normal"

    def transform(self, draws: Tensor) -> Tensor:
        return torch.sigmoid(draws)


class TruncatedLogitNormal(TimestepSampler):
    """1 - s with s = sigmoid(z) conditioned on s > left_trunc and stretched to [0, 1]: mostly noise.

    z is squeezed into the upper tail through its normal distribution function Phi: sigmoid(Phi^-1(lo +
    (1 - lo) Phi(z))), with lo = Phi(logit(left_trunc)).

    Args:
        left_trunc: the lower bound of s, in (0, 1).
    """

    base = "normal"

    def __init__(self, *, left_trunc: float = 0.075) -> None:
        if not 0 < left_trunc < 1:
            raise ValueError(f"left_trunc must be between 0 and 1, found {left_trunc}")
        self.left_trunc = left_trunc

    def transform(self, draws: Tensor) -> Tensor:
        bound = torch.tensor(self.left_trunc, dtype=torch.float64)
        low = torch.special.ndtr(torch.logit(bound))
        # float64: Phi saturates near 1, where the inverse is steep.
        share = low + (1 - low) * torch.special.ndtr(draws.double())
        s = torch.sigmoid(torch.special.ndtri(share))
        return (1 - (s - bound) / (1 - bound)).clamp(0, 1).to(draws.dtype)


class LogSnr(TimestepSampler):
    """t = sigmoid(-l), the log signal-to-noise ratio l being normal; kept in [1e-4, 1 - 1e-4].

    Args:
        mean_logsnr: mean of l.
        std_logsnr: standard deviation of l.
    """

    base = "normal"

    def __init__(self, *, mean_logsnr: float = -1.2, std_logsnr: float = 2.0) -> None:
        if std_logsnr <= 0:
            raise ValueError(f"std_logsnr must be above 0, found {std_logsnr}")
        self.mean_logsnr = mean_logsnr
        self.std_logsnr = std_logsnr

    def transform(self, draws: Tensor) -> Tensor:
        return torch.sigmoid(-(draws * self.std_logsnr + self.mean_logsnr)).clamp(1e-4, 1 - 1e-4)


class UniformLogSnr(TimestepSampler):
    """t = sigmoid(-l), the log signal-to-noise ratio l being uniform.

    Args:
        min_logsnr: the least l, that of the noisiest t.
        max_logsnr: the greatest l.
    """

    base = "uniform"

    def __init__(self, *, min_logsnr: float = -6.0, max_logsnr: float = 5.0) -> None:
        if min_logsnr >= max_logsnr:
            raise ValueError(f"min_logsnr must be below max_logsnr, found {min_logsnr} and {max_logsnr}")
        self.min_logsnr, self.max_logsnr = min_logsnr, max_logsnr

    def transform(self, draws: Tensor) -> Tensor:
        return torch.sigmoid(-(self.min_logsnr + (self.max_logsnr - self.min_logsnr) * draws))


TIMESTEP_SAMPLERS: dict[str, type[TimestepSampler]] = {
    "uniform": Uniform,
    "logit_normal": LogitNormal,
    "trunc_logit_normal": TruncatedLogitNormal,
    "log_snr": LogSnr,
    "log_snr_uniform": UniformLogSnr,
}


_LONGEST = 2**30  # points in one Sobol sequence


class Timesteps:
    """The stream of t for one training run: distribution, then shift, then one-shot replacement.

    Uniform draws come from one scrambled Sobol sequence, so that they cover [0, 1] evenly within a batch
    and across batches. All ranks follow the same stream and each takes its part of every global batch:
    no two ranks share a draw, and together they draw what a single process would.

    Args:
        sampler: distribution of t.
        shift: distribution shift, applied when `length` is given to the call.
        p_one_shot: probability of t = 1, the pure noise from which one-step models start.
        seed: scrambles the sequence and seeds the other draws.
        rank: number of this process, from 0.
        world_size: number of processes.
    """

    def __init__(
        self,
        sampler: TimestepSampler,
        *,
        shift: TimeShift | None = None,
        p_one_shot: float = 0.0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 0 <= p_one_shot <= 1:
            raise ValueError(f"p_one_shot must be between 0 and 1, found {p_one_shot}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be below world_size {world_size}, found {rank}")
        self.sampler = sampler
        self.shift = shift
        self.p_one_shot = p_one_shot
        self._rank = rank
        self._world_size = world_size
        self._seed, self._round = seed, 0
        self._sobol = self._sequence()
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, n: int, *, length: int | Sequence[int] | None = None) -> Tensor:
        """n values of t for this rank's batch: (n,) float32 on the CPU.

        Args:
            length: latent frames of all items, or of each one, for the distribution shift.
        """
        first = self._rank * n
        return self.part(n * self._world_size, slice(first, first + n), length=length)

    def part(self, total: int, part: slice, *, length: int | Sequence[int] | None = None) -> Tensor:
        """The values for `part` of a global batch of `total` items: float32 on the CPU.

        For batches with parts of unequal size; every rank must pass the same total.

        Args:
            length: latent frames of all items, or of each item of the part.
        """
        t = self.sampler.transform(self._draw(total))
        if self.shift is not None and length is not None:
            t = self._shifted(t, part, length, self.shift)
        if self.p_one_shot > 0:
            one_shot = torch.rand(total, generator=self._generator) < self.p_one_shot
            t = torch.where(one_shot, torch.ones_like(t), t)
        return t[part]

    @staticmethod
    def _shifted(t: Tensor, part: slice, length: int | Sequence[int], shift: TimeShift) -> Tensor:
        if isinstance(length, int):
            return shift(t, length)
        t = t.clone()
        t[part] = torch.stack([shift(value, n) for value, n in zip(t[part], length, strict=True)])
        return t

    def _draw(self, n: int) -> Tensor:
        if self.sampler.base == "normal":
            return torch.randn(n, generator=self._generator)
        if self._sobol.num_generated + n > _LONGEST:
            self._round += 1
            self._sobol = self._sequence()
        return self._sobol.draw(n, dtype=torch.float32).squeeze(-1)

    def _sequence(self) -> torch.quasirandom.SobolEngine:
        """The sequence of this round; when it is exhausted, the next round scrambles another one."""
        return torch.quasirandom.SobolEngine(1, scramble=True, seed=self._seed + self._round)

    def state_dict(self) -> dict[str, Any]:
        """The position in the stream; the same on every rank."""
        return {
            "seed": self._seed,
            "round": self._round,
            "sobol": int(self._sobol.num_generated),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the position of `state`."""
        self._seed, self._round = int(state["seed"]), int(state.get("round", 0))
        self._sobol = self._sequence()
        self._sobol.fast_forward(int(state["sobol"]))
        self._generator.set_state(state["generator"].cpu())
