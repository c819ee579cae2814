"""No argument of a constructor is exported to the layout of Stable Audio 3 without a decision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stable_audio.backbones.dit import DiT
from stable_audio.checkpoints.diffusers.stable_audio_3 import limits, tables
from stable_audio.conditioning.scalars import NumberConditioner
from stable_audio.conditioning.t5gemma import T5GemmaConditioner
from stable_audio.config.sections.diffusion import DiffusionSection
from stable_audio.nn.attention import AttentionOptions
from stable_audio.nn.feedforward import FeedForwardOptions
from stable_audio.nn.norms import NormOptions
from stable_audio.options import keywords_of
from stable_audio.pretransforms.bottlenecks.continuous import SoftNormBottleneck
from stable_audio.pretransforms.patched import PatchedPretransform
from stable_audio.pretransforms.same import SAMEDecoder, SAMEEncoder
from tests.checkpoints import tiny_pipeline_3 as tiny

CONSTRUCTORS: list[tuple[Any, Mapping[str, Any]]] = [
    (DiT, tables.DIT),
    (AttentionOptions, tables.ATTENTION),
    (FeedForwardOptions, tables.FEED_FORWARD),
    (NormOptions, tables.NORM),
    (T5GemmaConditioner, tables.T5GEMMA),
    (NumberConditioner, tables.NUMBER),
    (SAMEEncoder, tables.ENCODER),
    (SAMEDecoder, tables.DECODER),
    (SoftNormBottleneck, tables.SOFTNORM),
    (PatchedPretransform, tables.PATCHED),
]


@pytest.mark.parametrize(("constructor", "table"), CONSTRUCTORS, ids=lambda v: getattr(v, "__name__", ""))
def test_every_argument_is_in_a_table(constructor: Any, table: Mapping[str, Any]) -> None:
    assert set(keywords_of(constructor)) == set(table)


def test_every_key_of_the_wiring_is_in_a_table() -> None:
    keys = set(DiffusionSection.model_fields) - {"type", "config"}
    assert keys == {*tables.WIRING, *tables.OBJECTIVE}


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        ("diffusion.config.global_cond_type", "prepend", "only 'adaLN' fits"),
        ("diffusion.config.num_heads", 4, "32 features, only 64 or more"),
        ("diffusion.config.local_add_cond_dim", 3, "only 0 or 9"),
        ("diffusion.diffusion_objective", "v", "only 'rectified_flow' fits"),
        ("diffusion.global_cond_ids", ["prompt"], "only ['seconds_total'] fits"),
        ("diffusion.cross_attention_cond_ids", ["prompt"], "in any order, fits"),
        ("conditioning.configs.0.config.max_length", 300, "only up to 256 tokens fit"),
        ("conditioning.configs.0.config.padding_mode", "none", "only 'learned' fits"),
        ("conditioning.configs.1.config.fourier_features_type", "learned", "only 'expo' fits"),
        ("pretransform.config.encoder.config.sliding_window", [1, 2], "equal sides"),
        ("pretransform.config.encoder.config.c_mults", [1], "neighbouring stages one width"),
        ("pretransform.config.decoder.config.dim_heads", 32, "as in the encoder, fits"),
        ("pretransform.config.bottleneck.config.noise_augment_dim", 2, "only 0 fits"),
        ("pretransform.scale", 2.0, "only 1.0 fits"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, place: str, value: Any, reason: str) -> None:
    values = tiny.config(tmp_path)
    assert limits.unsupported(values) == []
    *path, key = (int(part) if part.isdigit() else part for part in place.split("."))
    section: Any = values["model"]
    for part in path:
        section = section[part]
    section[key] = value
    assert any(reason in text for text in limits.unsupported(values)), limits.unsupported(values)
