"""Tiny valid settings, one per registered component, shared by the contract tests.

Adding a component means adding one entry here; the contract tests then cover it.
"""

from __future__ import annotations

from typing import Any

BACKBONES: dict[str, dict[str, Any]] = {
    # name in stable_audio.backbones.BACKBONES: constructor keywords (2 to 4 channels, smallest that runs)
    "DAU1d": {
        "io_channels": 2,
        "depth": 2,
        "n_attn_layers": 1,
        "channels": [4, 4],
        "strides": [2],
        "kernel_size": 3,
        "cond_dim": 3,
        "global_cond_dim": 4,
    },
}

UNCOND_BACKBONES: dict[str, dict[str, Any]] = {
    # name in stable_audio.backbones.UNCOND_BACKBONES: constructor keywords
    "DAU1d": {
        "io_channels": 2,
        "depth": 2,
        "n_attn_layers": 1,
        "channels": [4, 4],
        "strides": [2],
        "kernel_size": 3,
    },
}

CONDITIONERS: dict[str, dict[str, Any]] = {
    # name in stable_audio.conditioning.CONDITIONERS: constructor keywords (without output_dim)
    "int": {"max_val": 9},
    "number": {"max_val": 10},
    "list": {"options": ["rock", "pop"]},
    "clip_text": {"width": 8, "layers": 1, "heads": 2, "max_length": 10, "vocab_size": 258},
}

CONDITIONER_VALUES: dict[str, list[Any]] = {
    # name in stable_audio.conditioning.CONDITIONERS: three different values that it accepts
    "int": [1, 5, 9],
    "number": [0.0, 3.5, 10],
    "list": ["rock", "pop", "rock"],
    "clip_text": ["kick", "a bell", ""],
}

PRETRANSFORMS: dict[str, dict[str, Any]] = {
    # name in stable_audio.pretransforms.PRETRANSFORMS: constructor keywords or config
}
