"""Training losses: terms that compare the output of the backbone with its target, and their weighted sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.diffusion.item_means import FrameGroups, ItemMeans
from stable_audio.diffusion.objectives import Objective
from stable_audio.nn.terms import Term, weighted_sum


@dataclass(frozen=True)
class LossInputs:
    """The inputs of a loss term.

    Attributes:
        output: output of the backbone (b c n).
        target: the target of the output (b c n).
        x0: clean latents (b c n).
        x_t: noisy latents (b c n).
        t: diffusion time of each item (b,).
        objective: objective that defines `output`.
        mask: (b 1 n) bool, True where the loss counts; None counts everything.
        means: how elementwise terms become means over items; None: over all elements that count.
        groups: what each frame is to `means`; None: all are signal.
        computed: what else the step computed, by name, such as losses of a bottleneck.
    """

    output: Tensor
    target: Tensor
    x0: Tensor
    x_t: Tensor
    t: Tensor
    objective: Objective
    mask: Tensor | None = None
    means: ItemMeans | None = None
    groups: FrameGroups | None = None
    computed: Mapping[str, Tensor] = field(default_factory=dict)

    def item(self, index: int) -> LossInputs:
        """The inputs of one item alone, as a batch of one; what else was computed is of the whole batch."""
        span = slice(index, index + 1)
        return LossInputs(
            output=self.output[span],
            target=self.target[span],
            x0=self.x0[span],
            x_t=self.x_t[span],
            t=self.t[span],
            objective=self.objective,
            mask=None if self.mask is None else self.mask[span],
            means=self.means,
            groups=None if self.groups is None else self.groups.item(index),
        )

    @cached_property
    def frames(self) -> FrameGroups:
        """The groups, all of them signal where none were given."""
        return self.groups if self.groups is not None else FrameGroups.everything(self.output)

    @cached_property
    def denoised(self) -> Tensor:
        """The estimate of x0 by `output`."""
        return self.objective.denoised(self.output, self.x_t, self.t)


LossSpace = Literal["output", "denoised"]


class ElementwiseLoss:
    """Base of the terms that compare element by element.

    Args:
        space: compare the output with its target, or the denoised estimate with the clean latents.
    """

    def __init__(self, *, space: LossSpace = "output") -> None:
        if space not in ("output", "denoised"):
            raise ValueError(f"space must be 'output' or 'denoised', found '{space}'")
        self.space = space

    def compare(self, estimate: Tensor, reference: Tensor) -> Tensor:
        """Loss per element, in the shape of both."""
        raise NotImplementedError

    def elementwise(self, inputs: LossInputs) -> Tensor:
        """(b c n), mask not applied, normalized if the inputs say so."""
        denoised = self.space == "denoised"
        estimate, reference = (inputs.denoised, inputs.x0) if denoised else (inputs.output, inputs.target)
        errors = self.compare(estimate, reference)
        if inputs.means is None:
            return errors
        return inputs.means.normalized(errors, reference, inputs.frames.signal)

    def __call__(self, inputs: LossInputs) -> Tensor:
        """Mean over the elements that count, or of such means of each item."""
        errors = self.elementwise(inputs)
        if inputs.means is None:
            return masked_mean(errors, inputs.mask)
        mean, context = inputs.means(errors, inputs.frames)
        return mean + context

    @torch.no_grad()
    def parts(self, inputs: LossInputs) -> dict[str, Tensor]:
        """Means over items to be logged: without the context (`loss`), and those of `ItemMeans.parts`."""
        assert inputs.means is not None
        errors = self.elementwise(inputs)
        mean, _ = inputs.means(errors, inputs.frames)
        return {"loss": mean, **inputs.means.parts(errors, inputs.frames)}


class MSELoss(ElementwiseLoss):
    """Squared error."""

    def compare(self, estimate: Tensor, reference: Tensor) -> Tensor:
        return (estimate - reference).square()


class L1Loss(ElementwiseLoss):
    """Absolute error."""

    def compare(self, estimate: Tensor, reference: Tensor) -> Tensor:
        return (estimate - reference).abs()


class HuberLoss(ElementwiseLoss):
    """Squared error below `delta`, linear above, so that outliers weigh less (Huber 1964).

    Args:
        delta: error at which the loss turns from quadratic to linear.
    """

    def __init__(self, *, delta: float = 1.0, space: LossSpace = "output") -> None:
        super().__init__(space=space)
        if delta <= 0:
            raise ValueError(f"delta must be above 0, found {delta}")
        self.delta = delta

    def compare(self, estimate: Tensor, reference: Tensor) -> Tensor:
        return F.huber_loss(estimate, reference, reduction="none", delta=self.delta)


class SpectralLoss:
    """L1 distance of magnitude spectra along n, of the denoised estimate and the clean latents.

    It ignores the phase, and so rewards a correct spectrum before the waveform can be predicted.

    Args:
        n_ffts: window lengths; those longer than the latents are skipped. The hop is a quarter of each.
    """

    def __init__(self, *, n_ffts: Sequence[int] = (16, 64, 256)) -> None:
        if not n_ffts or min(n_ffts) < 4:
            raise ValueError(f"n_ffts needs window lengths of at least 4, found {list(n_ffts)}")
        self.n_ffts = tuple(n_ffts)

    def __call__(self, inputs: LossInputs) -> Tensor:
        mask = 1.0 if inputs.mask is None else inputs.mask
        estimate, reference = (inputs.denoised * mask).float(), (inputs.x0 * mask).float()
        usable = [n for n in self.n_ffts if n <= estimate.shape[-1]] or [estimate.shape[-1]]
        distances = [(_magnitudes(estimate, n) - _magnitudes(reference, n)).abs().mean() for n in usable]
        return torch.stack(distances).mean()


LOSSES: dict[str, type] = {"mse": MSELoss, "l1": L1Loss, "huber": HuberLoss, "spectral": SpectralLoss}

MAIN = "diffusion"
"""Name of the main term in `training.loss_configs`; it must be elementwise. Default: mse with weight 1."""


class LossSum:
    """The weighted sum of the terms; the first is the main one."""

    def __init__(self, terms: Sequence[Term[LossInputs]]) -> None:
        if not terms or not isinstance(terms[0].loss, ElementwiseLoss):
            raise ValueError(f"the first term must be one of mse, l1, huber; found {[t.name for t in terms]}")
        self.terms = tuple(terms)

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, {"<name>_loss": unweighted term}), with the parts of terms that are means over items."""
        total, values = weighted_sum(self.terms, inputs)
        logged = {f"{name}_loss": value.detach() for name, value in values.items()}
        for term in self.terms if inputs.means is not None else ():
            if isinstance(term.loss, ElementwiseLoss):
                logged |= {f"{term.name}_{part}": value for part, value in term.loss.parts(inputs).items()}
        return total, logged

    def alone(self, inputs: LossInputs) -> Tensor:
        """The loss (b,) of each item by itself, as if it were a batch, for comparisons between batches."""
        return torch.stack([self(inputs.item(i))[0] for i in range(inputs.t.shape[0])])

    def per_item(self, inputs: LossInputs) -> Tensor:
        """The main term per item (b,), for statistics over t."""
        main = self.terms[0].loss
        assert isinstance(main, ElementwiseLoss)
        values = main.elementwise(inputs)
        mask = inputs.mask if inputs.means is None else inputs.frames.signal
        if mask is None:
            return values.flatten(1).mean(1)
        weights = mask.expand_as(values).to(values.dtype).flatten(1)
        return (values.flatten(1) * weights).sum(1) / weights.sum(1).clamp(min=1)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of the elements where the mask (broadcast) is True; all of them without a mask.

    A mask without a single True gives 0, with a gradient of 0.
    """
    if mask is None:
        return values.mean()
    weights = mask.expand_as(values).to(values.dtype)
    return (values * weights).sum() / weights.sum().clamp(min=1)


def _magnitudes(x: Tensor, n_fft: int) -> Tensor:
    window = torch.hann_window(n_fft, device=x.device)
    spectrum = torch.stft(
        x.flatten(0, -2), n_fft, max(1, n_fft // 4), window=window, center=False, return_complex=True
    )
    # The square root has no gradient at 0.
    return (spectrum.real.square() + spectrum.imag.square() + 1e-8).sqrt()
