"""The shipped descriptions of Stable Audio 3 have the sizes and the keys of the published weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stable_audio.checkpoints.keys import to_sat
from stable_audio.cli import main
from stable_audio.config.reading.plain import read_json
from stable_audio.factory import create_model_from_config

FOLDER = Path(__file__).parents[1] / "model_configs" / "stable_audio_3"
BACKBONE = {"small": 459_130_880, "medium": 1_453_170_176}
AUTOENCODER = {"small": 108_244_016, "medium": 852_126_560}
"""Encoder and decoder; the bottleneck has 256 gains, 256 offsets and a deviation besides."""
FRAMES = {"small": 1292, "medium": 4096}
SIZES = ["small", pytest.param("medium", marks=pytest.mark.slow)]


PER_LAYER = {
    # key -> shape in widths E; d: features of a head, c: channels of local conditioning
    "pre_norm.gamma": "E",
    "self_attn.to_qkv.weight": "5E E",
    "self_attn.to_out.weight": "E E",
    "self_attn.q_norm.gamma": "d",
    "self_attn.k_norm.gamma": "d",
    "cross_attend_norm.gamma": "E",
    "cross_attn.to_q.weight": "2E E",
    "cross_attn.to_kv.weight": "3E E",
    "cross_attn.to_out.weight": "E E",
    "cross_attn.q_norm.gamma": "d",
    "cross_attn.k_norm.gamma": "d",
    "ff_norm.gamma": "E",
    "ff.ff.0.proj.weight": "8E E",
    "ff.ff.0.proj.bias": "8E",
    "ff.ff.2.weight": "E 4E",
    "ff.ff.2.bias": "E",
    "to_local_embed.0.weight": "E c",
    "to_local_embed.0.bias": "E",
    "to_local_embed.2.weight": "E E",
    "to_local_embed.2.bias": "E",
    "to_scale_shift_gate": "6E",
}
OUTSIDE = {
    "to_timestep_embed.0.weight": "E f",
    "to_timestep_embed.0.bias": "E",
    "to_timestep_embed.2.weight": "E E",
    "to_timestep_embed.2.bias": "E",
    "to_cond_embed.0.weight": "E t",
    "to_cond_embed.2.weight": "E E",
    "to_global_embed.0.weight": "E t",
    "to_global_embed.2.weight": "E E",
    "preprocess_conv.weight": "f f 1",
    "postprocess_conv.weight": "f f 1",
    "transformer.project_in.weight": "E f",
    "transformer.project_out.weight": "f E",
    "transformer.memory_tokens": "64 E",
    "transformer.rotary_pos_emb.inv_freq": "16",
    "transformer.global_cond_embedder.0.weight": "E E",
    "transformer.global_cond_embedder.0.bias": "E",
    "transformer.global_cond_embedder.2.weight": "6E E",
    "transformer.global_cond_embedder.2.bias": "6E",
}


@pytest.fixture(scope="module")
def medium() -> Any:
    return create_model_from_config(FOLDER / "medium.json", device="meta")


def check(config: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["check", str(config), "--dry", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["errors"] == report["warnings"] == []
    return report


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_check_counts_the_published_parameters(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = check(FOLDER / f"{size}.json", capsys)
    assert report["parameters"]["backbone"] == BACKBONE[size]
    assert report["parameters"]["pretransform"] == AUTOENCODER[size] + 256 + 256 + 1
    assert report["parameters"]["conditioner"] == 256 * 768 + 768 + 768
    assert report["shape"]["latents"] == [256, FRAMES[size]]
    assert report["shape"]["downsampling_ratio"] == 4096
    # 256 tokens of text and one of the duration.
    assert report["slots"]["cross_attn"]["ids"] == {"prompt": 768, "seconds_total": 768}
    local = report["slots"]["local_add"]
    assert local == {"width": 257, "ids": {"inpaint_mask": 1, "inpaint_masked_input": 256}}


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_check_counts_the_autoencoders_alone(
    size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = read_json(FOLDER / f"{size}.json")
    model = whole["model"]["pretransform"]["config"]
    keys = ("sample_size", "sample_rate", "audio_channels")
    alone = {"model_type": "autoencoder", "model": model, **{k: whole[k] for k in keys}}
    (tmp_path / "same.json").write_text(json.dumps(alone))
    counts = check(tmp_path / "same.json", capsys)["parameters"]
    assert counts["encoder"] + counts["decoder"] == AUTOENCODER[size] == counts["trainable"]


def test_medium_has_the_keys_and_shapes_of_the_published_file(medium: Any) -> None:
    config = read_json(FOLDER / "medium.json")
    state = to_sat(medium.state_dict(), config)
    prefix = "model.model."
    found = {k.removeprefix(prefix): tuple(v.shape) for k, v in state.items() if k.startswith(prefix)}
    expected = {key: _shape(shape) for key, shape in OUTSIDE.items()}
    for layer in range(24):
        rows = {f"transformer.layers.{layer}.{key}": _shape(shape) for key, shape in PER_LAYER.items()}
        expected |= rows
    assert len(expected) == 522
    assert found == expected
    assert len(state) == 997


def _shape(words: str) -> tuple[int, ...]:
    letters = {"E": 1536, "d": 64, "c": 257, "f": 256, "t": 768}
    return tuple(
        int(word[:-1] or 1) * letters[word[-1]] if word[-1] in letters else int(word)
        for word in words.split()
    )


def test_rest_of_the_published_file(medium: Any) -> None:
    shapes = {k: tuple(v.shape) for k, v in medium.state_dict().items() if not k.startswith("backbone.")}
    assert {k: s for k, s in shapes.items() if k.startswith("conditioner.")} == {
        "conditioner.conditioners.prompt.padding_embedding": (768,),
        "conditioner.conditioners.seconds_total.embedder.embedding.1.weight": (768, 256),
        "conditioner.conditioners.seconds_total.embedder.embedding.1.bias": (768,),
    }
    bottleneck = {k: s for k, s in shapes.items() if "bottleneck" in k}
    assert bottleneck == {
        f"pretransform.model.bottleneck.{name}": shape
        for name, shape in {
            "scaling_factor": (1, 256, 1),
            "bias": (1, 256, 1),
            "noise_scaling_factor": (1, 0, 1),
            "running_std": (1,),
        }.items()
    }
