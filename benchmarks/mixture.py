"""Data whose score is known: a mixture of Gaussians, and the network that is exactly right for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stable_audio.diffusion.objectives import Objective


@dataclass(frozen=True)
class Mixture:
    """Equally likely Gaussians of one deviation.

    Attributes:
        means: (k d).
        std: deviation of each.
    """

    means: Tensor
    std: float

    @classmethod
    def random(cls, components: int = 6, dims: int = 8, std: float = 0.15, seed: int = 0) -> Mixture:
        """Means from a standard normal distribution."""
        generator = torch.Generator().manual_seed(seed)
        return cls(torch.randn(components, dims, generator=generator, dtype=torch.float64), std)

    def samples(self, count: int, seed: int = 1) -> Tensor:
        """(count, d, 1) of the mixture."""
        generator = torch.Generator().manual_seed(seed)
        which = torch.randint(len(self.means), (count,), generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        return (self.means[which] + self.std * noise)[..., None].float()

    def network(self, objective: Objective):
        """(x (b d 1), t (b,)) -> E[target | x_t] in closed form."""

        def predict(x: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = (v.view(-1, 1, 1) for v in objective.alpha_sigma(t.double()))
            state = x.double().transpose(1, 2)  # (b 1 d)
            variance = alpha**2 * self.std**2 + sigma**2
            gaps = state - alpha * self.means  # (b k d)
            shares = (-gaps.square().sum(-1) / (2 * variance[..., 0])).softmax(-1)[..., None]
            x0 = (shares * (self.means + alpha * self.std**2 / variance * gaps)).sum(1)[..., None]
            noise = (shares * sigma / variance * gaps).sum(1)[..., None]
            return objective.target(x0, noise, t.double()).to(x.dtype)

        return predict


def sliced_distance(a: Tensor, b: Tensor, *, directions: int = 64, seed: int = 2) -> float:
    """Sliced Wasserstein-2 distance of two sets of samples (n d 1) of one size (Rabin et al. 2011)."""
    generator = torch.Generator().manual_seed(seed)
    lines = torch.randn(a.shape[1], directions, generator=generator)
    lines = lines / lines.norm(dim=0)
    projected = [(v.flatten(1) @ lines).sort(dim=0).values for v in (a, b)]
    return float((projected[0] - projected[1]).square().mean().sqrt())
