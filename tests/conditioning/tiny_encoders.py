"""Tiny models of transformers with random weights, saved as their published versions are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.checkpoints.tiny_pipeline import disturb
from tests.golden.kinds.cond_text import save_tokenizer

VOCABULARY = ["<s>", "<pad>", "</s>", "<unk>", "rock", "drum", "loop", "soft", "piano"]
TEXTS = ["rock drum loop", "soft piano", "", "a drum"]
WIDTH, JOINT = 64, 6
"""Width of the text branch, one head of 64; width of the projected embedding."""


def clap(fusion: bool = True) -> Any:
    """A CLAP with two stages in its audio branch, whose sizes all differ."""
    from transformers import ClapConfig, ClapModel

    torch.manual_seed(3)
    text = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "intermediate_size": 24,
        "max_position_embeddings": 40,
        "layer_norm_eps": 1e-5,
    }
    audio = {
        "patch_embeds_hidden_size": 8,
        "hidden_size": 16,
        "depths": [1, 2],
        "num_hidden_layers": 2,
        "num_attention_heads": [1, 2],
        "mlp_ratio": 3.0,
        "enable_fusion": fusion,
        "fusion_type": "aff_2d" if fusion else None,
        "aff_block_r": 2,
    }
    network = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=JOINT))
    disturb(network)
    return network.eval()


def save_clap(folder: Path, fusion: bool = True) -> Any:
    """Save a CLAP with its tokenizer and feature extractor; returns it."""
    from transformers import ClapFeatureExtractor

    network = clap(fusion)
    network.save_pretrained(folder)
    truncation = "fusion" if fusion else "rand_trunc"
    ClapFeatureExtractor(frequency_min=50, frequency_max=14_000, truncation=truncation).save_pretrained(
        folder
    )
    save_tokenizer(VOCABULARY, "<s> $A </s>", folder)
    return network


LAION_NAMES = (
    # transformers -> LAION-CLAP
    ("text_model.", "text_branch."),
    ("audio_model.audio_encoder.", "audio_branch."),
    ("_projection.linear1.", "_projection.0."),
    ("_projection.linear2.", "_projection.2."),
    ("audio_branch.batch_norm.", "audio_branch.bn0."),
    ("attention.self.relative", "attn.relative"),
    ("attention.output.dense", "attn.proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
)


def laion_state(network: nn.Module) -> dict[str, Tensor]:
    """The weights of a CLAP under the names that LAION's files have, with what those have besides."""
    state: dict[str, Tensor] = {}
    for key, value in network.state_dict().items():
        name = key
        for theirs, laion in LAION_NAMES:
            if not key.startswith("text_model.encoder") or theirs == "text_model.":
                name = name.replace(theirs, laion)
        state[name] = value
    for key in [k for k in state if re.search(r"audio_branch.*attention\.self\.query", k)]:
        parts = [state.pop(key.replace("query", part)) for part in ("query", "key", "value")]
        state[key.replace("attention.self.query", "attn.qkv")] = torch.cat(parts)
    return {
        **state,
        "logit_scale_a": torch.tensor(1.0),
        "logit_scale_t": torch.tensor(1.0),
        "text_transform.sequential.0.weight": torch.zeros(2, 2),
        "audio_transform.sequential.0.weight": torch.zeros(2, 2),
        "audio_branch.spectrogram_extractor.stft.conv_real.weight": torch.zeros(3, 1, 4),
        "audio_branch.logmel_extractor.melW": torch.zeros(3, 2),
        "audio_branch.tscam_conv.weight": torch.zeros(2, 2),
        "audio_branch.head.weight": torch.zeros(2, 2),
        "audio_branch.layers.0.blocks.0.attn_mask": torch.zeros(2, 2),
    }


def save_laion(file: Path, network: nn.Module, prefix: str = "module.") -> None:
    """Write a checkpoint of LAION-CLAP: a pickle with numbers of numpy among its values."""
    state = {prefix + k: v for k, v in laion_state(network).items()}
    torch.save({"epoch": 3, "name": "x", "best": np.float64(0.5), "state_dict": state}, file)


def save_t5gemma(folder: Path) -> None:
    """Save an encoder-decoder in bfloat16 with its tokenizer, as the published one is."""
    from transformers import T5GemmaConfig, T5GemmaModel

    torch.manual_seed(3)
    half = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "sliding_window": 4,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "dropout_rate": 0.0,
    }
    network: nn.Module = T5GemmaModel(T5GemmaConfig(encoder=half, decoder=half))
    disturb(network)
    network.bfloat16().save_pretrained(folder)
    save_tokenizer(VOCABULARY, "$A </s>", folder)
