"""The interface of discriminators: a loss for themselves, and two losses for the generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Judgement = list[Tensor]
"""Output of one sub-discriminator for a batch: its feature maps, followed by its score map."""


class GeneratorLosses(NamedTuple):
    """Scalars: adversarial, and the distance of the feature maps of fakes from those of reals."""

    adversarial: Tensor
    feature_matching: Tensor


class Discriminator(nn.Module):
    """Base of the discriminators: several networks, each with feature maps and a score map.

    Gradients reach the discriminator's parameters unless the caller freezes them; if frozen, no graph is kept
    for reals.
    """

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The modules that hold the weights, each of which is called by itself, so that weights can be split
        over processes; a discriminator that names none is not split."""
        return ()

    def check_length(self, samples: int) -> None:
        """Check that clips of so many samples can be judged.

        Raises:
            ValueError: they are too short for the layers.
        """

    def judge(self, audio: Tensor) -> list[Judgement]:
        """Audio (b c n) -> one judgement per sub-discriminator."""
        raise NotImplementedError

    def discriminator_loss(self, reals: Tensor, fakes: Tensor) -> Tensor:
        """Loss of the discriminator, low if reals score high and fakes low. `fakes` should be detached."""
        real, fake = self.judge(reals), self.judge(fakes)
        return self.combine([self.real_and_fake(r[-1], f[-1]) for r, f in zip(real, fake)])

    def generator_losses(self, reals: Tensor, fakes: Tensor) -> GeneratorLosses:
        """The losses that the generator minimises."""
        real, fake = self.judge(reals), self.judge(fakes)
        adversarial = self.combine([self.as_real(r[-1], f[-1]) for r, f in zip(real, fake)])
        return GeneratorLosses(adversarial, self.feature_distance(real, fake))

    def real_and_fake(self, real: Tensor, fake: Tensor) -> Tensor:
        """Hinge loss of two score maps."""
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def as_real(self, real: Tensor, fake: Tensor) -> Tensor:
        """The generator's part of the hinge loss."""
        return -fake.mean()

    def combine(self, losses: list[Tensor]) -> Tensor:
        """Combine the losses of the sub-discriminators: their mean."""
        return torch.stack(losses).mean()

    def feature_distance(self, real: list[Judgement], fake: list[Judgement]) -> Tensor:
        """Mean absolute difference per layer, averaged over layers, then over sub-discriminators."""
        return torch.stack(
            [
                torch.stack([F.l1_loss(a, b) for a, b in zip(r[:-1], f[:-1])]).mean()
                for r, f in zip(real, fake)
            ]
        ).mean()
