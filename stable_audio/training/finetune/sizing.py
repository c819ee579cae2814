"""Steps, rates and sizes of a fine-tune, as functions of the model and of the data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from stable_audio.optim.low_bit import AdamW8bit
from stable_audio.optim.torchao_classes import is_quick_on

PASSES = 200
"""How often each piece of sound is trained on, within the limits below. DreamBooth (Ruiz et al., 2023) trains
200 times on each of a subject's pictures."""

FEWEST_STEPS, MOST_STEPS = 300, 10_000
"""Fewer steps teach nothing even of ten sounds; with more, published recipes for adapters only repeat
(stable-audio-3 trains 1000 steps, other trainers up to 10,000)."""

LARGEST_BATCH = 24
"""Clips per optimizer step, by accumulation where the memory holds fewer."""

WARM_UP_SHARE, MOST_WARM_UP = 0.05, 100
"""Steps in which the rate rises: this share of all, up to so many."""

BASE_RATE = 5e-5
"""Rate of models that do not say theirs: that of Stable Audio Open."""

ADAPTER_RATES = (1e-4, 2e-3)
"""Least and greatest rate of adapters; the least is that of stable-audio-3's script."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much to train.

    Attributes:
        steps: optimizer steps.
        batch: clips per optimizer step.
        learning_rate: greatest rate.
        warm_up: steps in which the rate rises to it.
        rank: of an adapter.
    """

    steps: int
    batch: int
    learning_rate: float
    warm_up: int
    rank: int


def size_for(
    clips: int,
    *,
    pieces: float,
    base_rate: float | None,
    adapter: bool,
    steps: int | None = None,
    batch: int | None = None,
    learning_rate: float | None = None,
    rank: int | None = None,
) -> Size:
    """The size of a fine-tune; what is given counts.

    Args:
        clips: number of sounds.
        pieces: their length together in lengths of the model's clips, at least one for each sound.
        base_rate: the rate that the model was trained with, if that is known.
        adapter: whether an adapter is trained, or the model itself.
    """
    batch = batch or default_batch(clips)
    steps = steps or default_steps(pieces, batch)
    return Size(
        steps=steps,
        batch=batch,
        learning_rate=learning_rate or default_rate(base_rate, adapter=adapter),
        warm_up=min(MOST_WARM_UP, max(1, round(WARM_UP_SHARE * steps))),
        rank=rank or default_rank(pieces),
    )


def default_batch(clips: int) -> int:
    """Clips per step: all of them, up to LARGEST_BATCH."""
    return min(max(1, clips), LARGEST_BATCH)


def default_steps(pieces: float, batch: int) -> int:
    """PASSES over the data, within the limits; rounded to tens."""
    steps = 10 * math.ceil(PASSES * pieces / batch / 10)
    return min(max(steps, FEWEST_STEPS), MOST_STEPS)


def default_rate(base_rate: float | None, *, adapter: bool) -> float:
    """Twice the model's own rate for adapters, within ADAPTER_RATES; half of it for the whole model.

    An adapter starts from zero and bears a greater rate than weights that are good already: stable-audio-3
    trains adapters at 1e-4, Stable Audio Open was trained at 5e-5.
    """
    rate = BASE_RATE if base_rate is None else base_rate
    if not adapter:
        return rate / 2
    low, high = ADAPTER_RATES
    return min(max(2 * rate, low), high)


def default_rank(pieces: float) -> int:
    """16, as in stable-audio-3's script; 32 for collections of more than 500 pieces."""
    return 16 if pieces <= 500 else 32


def optimizer_for(adapter: str | None, device: torch.device) -> str:
    """`AdamW8bit` for adapters where it costs no time, which halves their checkpoints; else `AdamW`.

    -xs types have few values, which would keep all bits. The model itself keeps exact averages.
    """
    large = adapter is not None and not adapter.endswith("-xs")
    return "AdamW8bit" if large and is_quick_on(device, AdamW8bit) else "AdamW"


def rate_of(training: Mapping[str, Any] | None) -> float | None:
    """The learning rate in a `training` section, or None."""
    section = training or {}
    optimizers = section.get("optimizer_configs") or {}
    optimizer = (optimizers.get("diffusion") or {}).get("optimizer") or {}
    rate = (optimizer.get("config") or {}).get("lr", section.get("learning_rate"))
    return float(rate) if isinstance(rate, (int, float)) and rate > 0 else None
