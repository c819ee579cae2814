"""The sounds of the synthetic collection by name, and the words that apply to each."""

from __future__ import annotations

from stable_audio.data.synthetic.pitched import PITCHED, STEADY
from stable_audio.data.synthetic.rendering import SoundFormula
from stable_audio.data.synthetic.unpitched import UNPITCHED

SOUNDS: dict[str, SoundFormula] = {**PITCHED, **UNPITCHED}

SUSTAINED = frozenset({*PITCHED, "cymbal", "noise sweep"})
"""Sounds whose length a caption may mention; the others end before any note does."""

CAN_VIBRATE = frozenset(STEADY)
"""Sounds that may have vibrato."""
