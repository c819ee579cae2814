"""Loading builds networks without weights: nothing is drawn, nothing is held twice, nothing else is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from stable_audio.backbones import BACKBONES, UNCOND_BACKBONES
from stable_audio.checkpoints import export, files
from stable_audio.checkpoints.loading import load_model
from stable_audio.checkpoints.weights import load_weights
from stable_audio.factory import create_model_from_config
from stable_audio.inference.codec.load import load_codec
from stable_audio.nn.unfilled import Unfilled, is_unfilled
from stable_audio.pretransforms import BOTTLENECKS, DECODERS, ENCODERS
from tests import tiny
from tests.golden.kinds.assembly import construct
from tests.pretransforms.building import build_pretransform
from tests.training.autoencoder.test_diffusion_autoencoder import tiny_config as diffusion_autoencoder_config

Build = Callable[[], nn.Module]
XT = tiny.DIT_X_TRANSFORMERS
SOURCES: dict[str, dict[str, tuple[Any, dict[str, Any]]]] = {
    "backbone": {n: (BACKBONES[n], c) for n, c in tiny.BACKBONES.items()},
    "uncond": {n: (UNCOND_BACKBONES[n], c) for n, c in tiny.UNCOND_BACKBONES.items()},
    "encoder": {n: (ENCODERS[n], c) for n, c in tiny.ENCODERS.items()},
    "decoder": {n: (DECODERS[n], c) for n, c in tiny.DECODERS.items()},
    "bottleneck": {n: (BOTTLENECKS[n], c) for n, c in tiny.BOTTLENECKS.items()},
    "x-transformers": {"dit": (BACKBONES["dit"], XT)},
}
PARTS: dict[str, Build] = {
    f"{kind} {name}": (lambda cls=cls, config=config: construct(cls, config))
    for kind, entries in SOURCES.items()
    for name, (cls, config) in entries.items()
}
PARTS |= {
    f"pretransform {name}": (lambda name=name, c=config: build_pretransform({"type": name, "config": c}))
    for name, config in tiny.PRETRANSFORMS.items()
}

MODEL: dict[str, Any] = {
    "model_type": "diffusion_cond",
    "sample_rate": 16000,
    "sample_size": 1024,
    "audio_channels": 2,
    "model": {
        "io_channels": 4,
        "pretransform": {"type": "autoencoder", "config": tiny.PRETRANSFORMS["autoencoder"]},
        "conditioning": {
            "cond_dim": 8,
            "configs": [{"id": "seconds_total", "type": "number", "config": {"max_val": 10}}],
        },
        "diffusion": {
            "type": "dit",
            "global_cond_ids": ["seconds_total"],
            "config": {"io_channels": 4, "embed_dim": 64, "depth": 2, "num_heads": 2, "global_cond_dim": 8},
        },
    },
}


@pytest.mark.parametrize("name", list(PARTS))
def test_every_part_takes_its_weights_and_is_whole(name: str) -> None:
    """State, and all that is no part of it: tables, windows, filters."""
    torch.manual_seed(0)
    filled = PARTS[name]()
    before = torch.get_rng_state()
    with Unfilled():
        module = PARTS[name]()
    assert torch.equal(torch.get_rng_state(), before)
    # Those that start from ones and zeros hold a few numbers in any case.
    assert is_unfilled(module) or sum(p.numel() for p in filled.parameters()) < 20
    load_weights(module, filled.state_dict())
    assert not is_unfilled(module)
    tensors = [dict(m.named_parameters()) | dict(m.named_buffers()) for m in (filled, module)]
    assert tensors[0].keys() == tensors[1].keys()
    for key, value in tensors[0].items():
        assert torch.equal(tensors[1][key], value), key
        assert tensors[1][key].requires_grad == value.requires_grad
        assert tensors[1][key].dtype == value.dtype


def test_seeded_weights_of_training_from_scratch_stay_the_same() -> None:
    """`unfilled` is for loading alone: otherwise pretransform, backbone, conditioners draw in this order."""
    torch.manual_seed(0)
    model = create_model_from_config(MODEL)
    torch.manual_seed(0)
    pretransform = build_pretransform(MODEL["model"]["pretransform"])
    backbone = construct(BACKBONES["dit"], MODEL["model"]["diffusion"]["config"])
    for built, expected in ((model.pretransform, pretransform), (model.backbone, backbone)):
        for key, value in expected.state_dict().items():
            assert torch.equal(built.state_dict()[key], value), key


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_loaded_model_is_the_stored_one_and_draws_nothing(tmp_path: Path, suffix: str, half: bool) -> None:
    model = create_model_from_config(MODEL)
    file = export(
        model, tmp_path / f"m{suffix}", config=MODEL, layout="ours", dtype=torch.float16 if half else None
    )
    before = torch.get_rng_state()
    loaded, _ = load_model(file)
    assert torch.equal(torch.get_rng_state(), before)
    for key, value in model.state_dict().items():
        found = loaded.state_dict()[key]
        assert found.dtype == value.dtype
        assert torch.equal(found, value.half().float() if half else value) or not value.is_floating_point()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n, p in loaded.named_parameters() if p.requires_grad} == trained


class Draws(TorchDispatchMode):
    """Counts the random numbers that are really drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        random = any(word in str(func) for word in ("uniform", "normal", "rand", "bernoulli"))
        if random and isinstance(found, torch.Tensor) and not found.is_meta:
            self.count += found.numel()
        return found


def test_networks_draw_nothing_that_is_thrown_away(tmp_path: Path) -> None:
    model = create_model_from_config(MODEL)
    file = export(model, tmp_path / "m.safetensors", config=MODEL, layout="ours")
    with Draws() as building:
        create_model_from_config(MODEL)
    with Draws() as loading:
        load_model(file)
    conditioner = sum(p.numel() for p in model.conditioner.parameters())
    assert building.count > sum(p.numel() for p in model.backbone.parameters()) / 2
    assert loading.count <= conditioner


def test_a_codec_draws_nothing(tmp_path: Path) -> None:
    model = create_model_from_config(MODEL)
    file = export(model, tmp_path / "m.safetensors", config=MODEL)
    with Draws() as draws:
        codec = load_codec(ckpt_path=file)
    assert draws.count == 0
    for key, value in model.pretransform.state_dict().items():
        assert torch.equal(codec.pretransform.state_dict()[key], value), key


@pytest.mark.parametrize("config", [MODEL, diffusion_autoencoder_config()], ids=lambda c: c["model_type"])
def test_a_codec_reads_its_file_once(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = export(create_model_from_config(config), tmp_path / "m.safetensors", config=config)
    readings: list[Path] = []
    read = files._read_safetensors

    def counted(path: Path, use_ema: bool) -> Any:
        readings.append(path)
        return read(path, use_ema)

    monkeypatch.setattr(files, "_read_safetensors", counted)
    load_codec(ckpt_path=file)
    assert readings == [file]


def test_a_model_in_two_files_draws_nothing_for_networks(tmp_path: Path) -> None:
    model = create_model_from_config(MODEL)
    state = model.state_dict()
    rest, inner = tmp_path / "rest.ckpt", tmp_path / "inner.ckpt"
    torch.save({"state_dict": {k: v for k, v in state.items() if not k.startswith("pretransform.")}}, rest)
    torch.save({"state_dict": {k: v for k, v in state.items() if k.startswith("pretransform.")}}, inner)
    with Draws() as draws:
        loaded, _ = load_model(rest, config=MODEL, pretransform=inner)
    assert draws.count <= sum(p.numel() for p in model.conditioner.parameters())
    for key, value in state.items():
        assert torch.equal(loaded.state_dict()[key], value), key


@pytest.mark.parametrize("name", list(PARTS))
def test_no_weight_has_two_names(name: str) -> None:
    """Loading by assignment would make two weights of it."""
    torch.manual_seed(0)
    parameters = [id(p) for _, p in PARTS[name]().named_parameters(remove_duplicate=False)]
    assert len(set(parameters)) == len(parameters)


def test_what_a_partial_load_leaves_out_starts_at_random(tmp_path: Path) -> None:
    model = create_model_from_config(MODEL)
    state = {k: v for k, v in model.state_dict().items() if "project_out" not in k}
    file = tmp_path / "part.ckpt"
    torch.save({"state_dict": state}, file)
    torch.manual_seed(3)
    loaded, _ = load_model(file, config=MODEL, partial=True)
    torch.manual_seed(3)
    fresh = create_model_from_config(MODEL)
    assert not is_unfilled(loaded)
    key = "backbone.transformer.project_out.weight"
    assert torch.equal(loaded.state_dict()[key], fresh.state_dict()[key])
    kept = "backbone.transformer.project_in.weight"
    assert torch.equal(loaded.state_dict()[kept], state[kept])
