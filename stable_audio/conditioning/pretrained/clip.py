"""Weights of a published CLIP for `ClipTextTransformer`, whose parameters have the same names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stable_audio.conditioning.pretrained.loading import load_network, require_kind
from stable_audio.conditioning.pretrained.source import NetworkSource
from stable_audio.conditioning.tokenizers import import_transformers

ACTIVATION = "quick_gelu"
POSITIONS = "embeddings.position_embedding.weight"

KEYS = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "vocab_size": "vocab_size",
}
"""Key of `clip_text` -> name of the same in a CLIP's config."""


def clip_weights(source: NetworkSource, sizes: Mapping[str, int], max_length: int) -> dict[str, Tensor]:
    """The text transformer's weights in float32, its positions cut to `max_length`.

    Args:
        sizes: what the network has of each of KEYS.

    Raises:
        ImportError: transformers is missing; the message names the extra.
        OSError: there is no such model.
        ValueError: it is no CLIP, or of other sizes.
    """
    config = source.config()
    require_kind(source, config, ("clip", "clip_text_model"))
    text = getattr(config, "text_config", config)
    _require_sizes(source, text, sizes, max_length)
    network = load_network(import_transformers().CLIPTextModel, source, dtype=torch.float32, config=text)
    state = {k.removeprefix("text_model."): v for k, v in network.state_dict().items()}
    state = {k: v for k, v in state.items() if not k.endswith("position_ids")}
    return {**state, POSITIONS: state[POSITIONS][:max_length]}


def _require_sizes(source: NetworkSource, text: Any, sizes: Mapping[str, int], max_length: int) -> None:
    wrong = [
        f"{key} {getattr(text, name)}" for key, name in KEYS.items() if getattr(text, name) != sizes[key]
    ]
    if max_length > text.max_position_embeddings:
        wrong.append(f"max_length of at most {text.max_position_embeddings}")
    if wrong:
        raise ValueError(f"weights '{source.name}' are of a CLIP with {', '.join(wrong)}; give these values")
    if text.hidden_act != ACTIVATION or text.intermediate_size != 4 * text.hidden_size:
        raise ValueError(
            f"weights '{source.name}' are of a CLIP with the activation {text.hidden_act} and feed-forwards "
            f"of {text.intermediate_size}; clip_text has {ACTIVATION} and four times the width: use the "
            "conditioner 'text_encoder', which reads with any CLIP"
        )
