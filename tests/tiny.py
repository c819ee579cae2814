"""Tiny valid settings, one per registered component, shared by the contract tests.

Adding a component means adding one entry here; the contract tests then cover it.
"""

from __future__ import annotations

from typing import Any

BACKBONES: dict[str, dict[str, Any]] = {
    # name in stable_audio.backbones.BACKBONES: constructor keywords (2 to 4 channels, smallest that runs)
}

UNCOND_BACKBONES: dict[str, dict[str, Any]] = {
    # name in stable_audio.backbones.UNCOND_BACKBONES: constructor keywords
}

CONDITIONERS: dict[str, dict[str, Any]] = {
    # name in stable_audio.conditioning.CONDITIONERS: constructor keywords (without output_dim)
}

CONDITIONER_VALUES: dict[str, list[Any]] = {
    # name in stable_audio.conditioning.CONDITIONERS: three different values that it accepts
}

PRETRANSFORMS: dict[str, dict[str, Any]] = {
    # name in stable_audio.pretransforms.PRETRANSFORMS: constructor keywords or config
}
