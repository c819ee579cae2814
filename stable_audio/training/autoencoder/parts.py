"""Parts of autoencoder training: the adversary, the encoder's input, the result of a forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from stable_audio.pretransforms import Autoencoder
from stable_audio.pretransforms.discriminators import Discriminator


@dataclass(frozen=True)
class Adversary:
    """A discriminator and its weights in the generator's loss.

    Attributes:
        discriminator: the network.
        adversarial: weight of the adversarial term.
        feature_matching: weight of the feature matching term.
        warmup_mode: "adv": the discriminator trains during warm-up; "full": it is not trained until the end
            of warm-up.
    """

    discriminator: Discriminator
    adversarial: float
    feature_matching: float
    warmup_mode: Literal["adv", "full"]

    def has_turn(self, step: int, *, warmed_up: bool) -> bool:
        """Whether the step is the discriminator's: odd steps, unless warm-up leaves it out."""
        return step % 2 == 1 and (self.warmup_mode == "adv" or warmed_up)

    def turns(self, steps: int, *, warmup_steps: int) -> int:
        """How many of the first steps are the discriminator's."""
        waits = warmup_steps if self.warmup_mode == "full" else 0
        # Odd steps from `waits` on: as many as there are below `steps`, less those below `waits`.
        return max(0, steps // 2 - waits // 2)

    def generator_terms(self, reconstruction: Reconstruction, *, counts: bool) -> dict[str, Tensor]:
        """The adversarial terms () of the generator's loss, by name.

        Args:
            reconstruction: with decoded sound.
            counts: False: they are 0, as during warm-up.
        """
        names = ("loss_adv", "feature_matching_loss")
        if not counts:
            return {name: reconstruction.reals.new_zeros(()) for name in names}
        assert reconstruction.decoded is not None
        losses = self.discriminator.generator_losses(reconstruction.reals, reconstruction.decoded)
        weights = (self.adversarial, self.feature_matching)
        return {name: weight * value for name, weight, value in zip(names, weights, losses)}


@dataclass
class Reconstruction:
    """The result of a forward pass.

    Attributes:
        reals: the audio (b c n).
        decoded: its reconstruction (b c n); None if no loss needs it.
        latents: latents (b d frames).
        values: tensors for the loss terms, by name.
    """

    reals: Tensor
    decoded: Tensor | None
    latents: Tensor
    values: dict[str, Tensor] = field(default_factory=dict)


def encoder_input(audio: Tensor, model: Autoencoder, *, mono: bool) -> Tensor:
    """Audio (b c n) for the encoder. With `mono`, average the channels and repeat the mean over the encoder's
    input channels."""
    if mono and audio.shape[1] > 1:
        return audio.mean(dim=1, keepdim=True).expand(-1, model.in_channels, -1)
    return audio


@contextlib.contextmanager
def unchanged(module: nn.Module | None) -> Iterator[None]:
    """Restore what a forward pass changes in place, such as codebooks and scales that follow averages."""
    tensors = [] if module is None else [*module.buffers(), *module.parameters()]
    copies = [(t, t._version, t.detach().clone()) for t in tensors if not t.requires_grad]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, version, value in copies:
                if tensor._version != version:
                    tensor.copy_(value)
