"""Classifier-free guidance for every backbone (Ho & Salimans 2022).

Backbones only define their unconditional branch (`null`); mixing, rescaling, intervals, negative
conditioning and dropout are here and in the modules beside: `branches` says what the network is run with,
`guidance_mixing` and `projection` what becomes of its outputs, `guidance_schedules` how much at which t.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from stable_audio.diffusion.branches import (
    Branches,
    GuidedBackbone,
    branches,
    slots_named,
    unconditional,
)
from stable_audio.diffusion.denoiser import Output, Predict
from stable_audio.diffusion.guidance_mixing import Mixer
from stable_audio.diffusion.guidance_options import EVERYWHERE, PLAIN, GuidanceOptions
from stable_audio.diffusion.objectives import Objective
from stable_audio.nn.transfer import first_value, repeated, to_device
from stable_audio.options import Flat, takes_keywords
from stable_audio.types import Conditioning, Slot

Bernoulli = Callable[[int, float], Tensor]
"""(n, probability) -> (n,) of bool or 0 and 1; 1 = drop."""


class Guidance:
    """(x, t) -> guided output: u + cfg_scale (c - u), c and u from one doubled batch.

    What else the options ask for is in `stable_audio.diffusion.guidance_mixing`; with slot_scales there are
    more than two branches.

    What has no effect is not computed: no other branch than c at cfg_scale 1, for a backbone without an
    unconditional branch and at noise levels outside cfg_interval. Conditioning is prepared once per variant.

    Args:
        cond: conditioning of the batch.
        options: weight, rescaling, interval and the rest; its fields are keywords as well. A weight of None
            is 1.
        negative: conditioning to steer away from. It replaces the null conditioning in `negative_slots`;
            its masked-out tokens stay null.
        guide: a weaker model with its conditioning, (x, t) -> output, to steer away from by guide_scale. Its
            objective must be the same.
        dtype: type in which the backbone computes; None = that of x.

    Raises:
        ValueError: options that are out of range, contradict each other, or do not fit model or objective.
    """

    @takes_keywords
    def __init__(
        self,
        backbone: GuidedBackbone,
        objective: Objective,
        cond: Conditioning,
        *,
        options: Flat[GuidanceOptions] = PLAIN,
        negative: Conditioning | None = None,
        guide: Predict | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        options.check_guidance()
        options.check_objective(objective)
        self._backbone = backbone
        self._objective = objective
        self._options = options
        phi = options.scale_phi
        self._scale_phi = backbone.default_scale_phi if phi is None else float(phi)
        self._dtype = dtype
        self._guide = guide if options.guide_weight != 1 else None
        null = None
        if options.needs_null:
            null = unconditional(backbone, cond, negative, slots_named(options.negative_slots))
        self._branches = Branches((cond,), ())
        if null is None and options.slot_scales:
            raise ValueError("slot_scales: the model has nothing to put in place of its conditioning")
        if null is not None:
            self._branches = branches(cond, null, options.slot_scales)
        self._mix = Mixer(options, objective, self._branches.weights, cond.padding_mask)

    def __call__(self, x: Tensor, t: Tensor) -> Output:
        """x (b c n), t (b,) -> Output; `uncond` is None if there was no unconditional branch."""
        if not self._active(t):
            return self._held(Output(self._run(x, t, self._prepared_cond)), t)
        outputs = self._outputs(x, t)
        mixed = self._mix(outputs, self._guide_output(x, t), x, t)
        value = rescaled(mixed, outputs[0], self._scale_phi)
        return self._held(Output(value, outputs[-1] if len(outputs) > 1 else None), t)

    def _active(self, t: Tensor) -> bool:
        """Whether the batch is guided, which its first item tells, as in the reference."""
        if len(self._branches.conds) == 1 and self._guide is None:
            return False
        low, high = self._options.interval
        if (low, high) == EVERYWHERE:
            return True
        sigma = float(self._objective.alpha_sigma(torch.tensor(first_value(t)))[1])
        return low <= sigma <= high

    def _outputs(self, x: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the branches, from the whole conditioning to none."""
        count = len(self._branches.conds)
        if count == 1:
            return (self._run(x, t, self._prepared_cond),)
        if self._prepared_together is not None:
            together = self._run(torch.cat([x] * count), repeated(t, count), self._prepared_together)
            return together.chunk(count)
        return tuple(self._run(x, t, cond) for cond in (self._prepared_cond, *self._prepared_others))

    def _guide_output(self, x: Tensor, t: Tensor) -> Tensor | None:
        if self._guide is None:
            return None
        result = self._guide(x, t)
        return (result.value if isinstance(result, Output) else result).to(x.dtype)

    def _held(self, output: Output, t: Tensor) -> Output:
        """No velocity where `zero_init` holds x still."""
        if not self._options.zero_init:
            return output
        moves = (t <= 1 - self._options.zero_init).view(-1, *[1] * (output.value.ndim - 1))
        uncond = output.uncond
        return Output(output.value * moves, None if uncond is None else uncond * moves)

    def _run(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        return self._backbone(x.to(self._dtype or x.dtype), t, cond).to(x.dtype)

    @cached_property
    def _prepared_cond(self) -> Conditioning:
        return self._backbone.prepare(self._branches.conds[0])

    @cached_property
    def _prepared_others(self) -> tuple[Conditioning, ...]:
        return tuple(self._backbone.prepare(cond) for cond in self._branches.conds[1:])

    @cached_property
    def _prepared_together(self) -> Conditioning | None:
        """All branches as one batch; None if their shapes differ, since padding would change results."""
        conds = self._branches.conds
        if any(cond.shapes() != conds[0].shapes() for cond in conds[1:]):
            return None
        return self._backbone.prepare(Conditioning.cat(conds))


def rescaled(mixed: Tensor, cond: Tensor, phi: float) -> Tensor:
    """phi mixed std(cond) / std(mixed) + (1 - phi) mixed, deviations over channels at each position.

    With a single channel, the deviation is taken over the length instead.
    """
    if phi == 0:
        return mixed
    dim = 1 if cond.shape[1] > 1 else -1
    ratio = cond.std(dim=dim, keepdim=True) / mixed.std(dim=dim, keepdim=True).clamp(min=1e-12)
    return phi * (mixed * ratio) + (1 - phi) * mixed


def cfg_dropout(
    backbone: GuidedBackbone, cond: Conditioning, prob: float, bernoulli: Bernoulli
) -> Conditioning:
    """Drop conditioning of single items in training, independently for every droppable slot in use.

    Args:
        prob: probability of dropping.
        bernoulli: source of the decisions; called once per slot, cross-attention before prepend.
    """
    if not 0 <= prob <= 1:
        raise ValueError(f"the dropout probability must be between 0 and 1, found {prob}")
    if prob == 0:
        return cond
    keep: dict[Slot, Tensor] = {}
    for slot in backbone.droppable:
        value = cond.slot(slot)
        if value is not None:
            keep[slot] = to_device(~bernoulli(value.shape[0], prob).bool(), value.device)
    return backbone.drop(cond, keep)


__all__ = ["Guidance", "GuidanceOptions", "GuidedBackbone", "cfg_dropout", "rescaled", "unconditional"]
