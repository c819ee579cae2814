"""From conditioning to audio: `generate`, used by the command line and by training demos."""

from __future__ import annotations

from stable_audio.inference.generation.generate import generate
from stable_audio.inference.generation.settings import Sampling

__all__ = ["Sampling", "generate"]
