"""Classifier-free guidance for every backbone (Ho & Salimans 2022).

Backbones only define their unconditional branch (`null`); mixing, rescaling, intervals, negative
conditioning and dropout are here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from stable_audio.diffusion.denoiser import Output
from stable_audio.diffusion.guidance_options import PLAIN, GuidanceOptions
from stable_audio.diffusion.objectives import Objective
from stable_audio.diffusion.projection import GuidanceProjection
from stable_audio.nn.transfer import to_device
from stable_audio.options import Flat, takes_keywords
from stable_audio.types import Conditioning, Slot

logger = logging.getLogger(__name__)

Bernoulli = Callable[[int, float], Tensor]
"""(n, probability) -> (n,) of bool or 0 and 1; 1 = drop."""


class GuidedBackbone(Protocol):
    """The part of a backbone that guidance uses."""

    default_scale_phi: float
    masks_attention: bool

    @property
    def droppable(self) -> tuple[Slot, ...]: ...

    def __call__(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor: ...
    def null(self, cond: Conditioning) -> Conditioning | None: ...
    def drop(self, cond: Conditioning, keep: dict[Slot, Tensor]) -> Conditioning: ...
    def prepare(self, cond: Conditioning) -> Conditioning: ...


class Guidance:
    """(x, t) -> guided output: u + cfg_scale (c - u), c and u from one doubled batch.

    With apg_scale or cfg_norm_threshold, the difference c - u is projected or limited (see
    `stable_audio.diffusion.projection`), but for cfg_scale 0, which gives u.

    The second half is omitted where it has no effect: cfg_scale 1, a backbone without an unconditional
    branch, noise levels outside cfg_interval. Conditioning is prepared once per variant.

    Args:
        cond: conditioning of the batch.
        options: weight, rescaling and interval; its fields are keywords as well. A weight of None is 1.
        negative: conditioning to steer away from. It replaces the null conditioning in `negative_slots`;
            its masked-out tokens stay null.
        dtype: type in which the backbone computes; None = that of x.
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
        negative_slots: Sequence[Slot] = (Slot.CROSS_ATTN,),
        dtype: torch.dtype | None = None,
    ) -> None:
        options.check_guidance()
        apg = 0.0 if options.apg_scale is None else float(options.apg_scale)
        self._projection = GuidanceProjection(apg, float(options.cfg_norm_threshold or 0))
        self._backbone = backbone
        self._objective = objective
        self._cond = cond
        self._cfg_scale = 1.0 if options.cfg_scale is None else float(options.cfg_scale)
        phi = options.scale_phi
        self._scale_phi = backbone.default_scale_phi if phi is None else float(phi)
        self._interval = options.interval
        self._dtype = dtype
        self._uncond: Conditioning | None = None
        if self._cfg_scale != 1.0:
            self._uncond = unconditional(backbone, cond, negative, negative_slots)

    def __call__(self, x: Tensor, t: Tensor) -> Output:
        """x (b c n), t (b,) -> Output; `uncond` is None if guidance was not active."""
        if not self._active(t):
            return Output(self._run(x, t, self._prepared_cond))
        cond, uncond = self._both_branches(x, t)
        return Output(rescaled(self._mixed(cond, uncond, x, t), cond, self._scale_phi), uncond)

    def _mixed(self, cond: Tensor, uncond: Tensor, x: Tensor, t: Tensor) -> Tensor:
        if self._projection.off or self._cfg_scale == 0:  # weight 0 is the unconditional branch
            return uncond + self._cfg_scale * (cond - uncond)
        difference = self._projection(cond, uncond, x, t, self._objective, self._cond.padding_mask)
        return cond + (self._cfg_scale - 1) * difference

    def _active(self, t: Tensor) -> bool:
        """Whether the batch is guided, which its first item tells, as in the reference."""
        if self._uncond is None:
            return False
        low, high = self._interval
        if (low, high) == (0.0, 1.0):
            return True  # without waiting for t from the device
        sigma = float(self._objective.alpha_sigma(t[0].float().cpu())[1])
        return low <= sigma <= high

    def _both_branches(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        if self._prepared_pair is not None:
            pair = self._run(torch.cat([x, x]), torch.cat([t, t]), self._prepared_pair)
            cond, uncond = pair.chunk(2)
            return cond, uncond
        return self._run(x, t, self._prepared_cond), self._run(x, t, self._prepared_uncond)

    def _run(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        return self._backbone(x.to(self._dtype or x.dtype), t, cond).to(x.dtype)

    @cached_property
    def _prepared_cond(self) -> Conditioning:
        return self._backbone.prepare(self._cond)

    @cached_property
    def _prepared_uncond(self) -> Conditioning:
        assert self._uncond is not None
        return self._backbone.prepare(self._uncond)

    @cached_property
    def _prepared_pair(self) -> Conditioning | None:
        """Both branches as one batch; None if their shapes differ, since padding would change results."""
        if self._uncond is None or self._cond.shapes() != self._uncond.shapes():
            return None
        return self._backbone.prepare(Conditioning.cat([self._cond, self._uncond]))


def unconditional(
    backbone: GuidedBackbone,
    cond: Conditioning,
    negative: Conditioning | None = None,
    negative_slots: Sequence[Slot] = (Slot.CROSS_ATTN,),
) -> Conditioning | None:
    """Null conditioning, with `negative` in `negative_slots`; None if there is nothing to drop."""
    changes: dict[str, Tensor | None] = {}
    if negative is None:
        return backbone.null(cond)
    for slot in negative_slots:
        changes.update(_replacement(cond, negative, slot, uses_mask=backbone.masks_attention))
    null = backbone.null(cond.replace(**changes))
    if null is None or not changes:
        slots = [s.value for s in negative_slots]
        logger.warning("negative conditioning has no effect: the backbone cannot take it in %s", slots)
        return null
    for slot in negative_slots:
        name, mask_name = slot.field, slot.mask_field
        value, fallback = negative.slot(slot), null.slot(slot)
        if name not in changes or value is None:
            continue
        mask = getattr(negative, mask_name) if mask_name else None
        if mask is not None and fallback is not None:
            value = value.where(mask.bool().unsqueeze(-1), fallback.to(value.dtype))
        null = null.replace(**{name: value})
    return null


def _replacement(
    cond: Conditioning, negative: Conditioning, slot: Slot, *, uses_mask: bool
) -> dict[str, Tensor | None]:
    """The fields of `cond` that `negative` replaces in `slot`.

    Args:
        uses_mask: whether the backbone masks attention. If so, the mask is replaced with the tokens;
            otherwise only if their number differs.
    """
    name, mask_name = slot.field, slot.mask_field
    old, new = cond.slot(slot), negative.slot(slot)
    if old is None or new is None:
        return {}
    if mask_name is None or (old.shape[1] == new.shape[1] and not uses_mask):
        return {name: new}
    return {name: new, mask_name: getattr(negative, mask_name)}


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
