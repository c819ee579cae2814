"""Every sound of the synthetic collection by its name, and which words each obeys."""

from __future__ import annotations

from stable_audio.data.synthetic.pitched import PITCHED, STEADY
from stable_audio.data.synthetic.rendering import Sound
from stable_audio.data.synthetic.unpitched import UNPITCHED

SOUNDS: dict[str, Sound] = {**PITCHED, **UNPITCHED}

SUSTAINED = frozenset({*PITCHED, "cymbal", "noise sweep"})
"""Sounds whose length a caption can tell; the others are over sooner than any note."""

CAN_VIBRATE = frozenset(STEADY)
"""Sounds that vibrato suits."""
