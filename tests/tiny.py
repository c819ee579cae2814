"""Tiny valid settings, one per registered component, shared by the contract tests.

Adding a component means adding one entry here; the contract tests then cover it.
"""

from __future__ import annotations

from typing import Any

BACKBONES: dict[str, dict[str, Any]] = {
    # name in stable_audio.backbones.BACKBONES: constructor keywords (2 to 4 channels, smallest that runs)
    "dit": {
        "io_channels": 2,
        "embed_dim": 8,
        "depth": 2,
        "num_heads": 2,
        "patch_size": 2,
        "cond_token_dim": 6,
        "global_cond_dim": 4,
        "prepend_cond_dim": 5,
        "input_concat_dim": 3,
    },
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
    "adp_cfg_1d": {
        "in_channels": 2,
        "channels": 4,
        "multipliers": [1, 8],
        "factors": [2],
        "num_blocks": [1],
        "attentions": [1, 1],
        "attention_heads": 2,
        "resnet_groups": 2,
        "context_embedding_features": 6,
        "context_embedding_max_length": 8,
        "use_xattn_time": True,
        "context_features": 4,
        "context_channels": [3],
    },
    "adp_1d": {
        "in_channels": 2,
        "channels": 4,
        "multipliers": [1, 8],
        "factors": [2],
        "num_blocks": [1],
        "attentions": [1, 1],
        "attention_heads": 2,
        "resnet_groups": 2,
        "context_features": 4,
        "context_channels": [1, 2],
    },
}

UNCOND_BACKBONES: dict[str, dict[str, Any]] = {
    # name in stable_audio.backbones.UNCOND_BACKBONES: constructor keywords
    "dit": {"in_channels": 2, "embed_dim": 8, "depth": 2, "num_heads": 2},
    "DAU1d": {
        "io_channels": 2,
        "depth": 2,
        "n_attn_layers": 1,
        "channels": [4, 4],
        "strides": [2],
        "kernel_size": 3,
    },
    "adp_uncond_1d": {
        "in_channels": 2,
        "channels": 4,
        "multipliers": [1, 8],
        "factors": [2],
        "num_blocks": [1],
        "attentions": [1, 1],
        "attention_heads": 2,
        "resnet_groups": 2,
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
