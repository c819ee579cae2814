"""Runs that start from weights into which adapters were merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.adapters import AdapterError, AdapterSettings, AdapterStack, AdapterUse, with_adapters
from stable_audio.adapters.base import base_tensors
from stable_audio.adapters.files import read_adapter, write_adapter
from stable_audio.checkpoints import load_model
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from tests.training.building import stored, tiny_config, tiny_run
from tests.training.saving.test_resume import assert_same_checkpoint


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A model file, and that of an adapter of its backbone."""
    base = stored(tmp_path, ".safetensors", tiny_config())
    model: Any = load_model(base)[0]
    stack = AdapterStack(model.backbone, model.conditioner)
    index = stack.add(AdapterSettings(rank=2, include=["to_qkv"]))
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in stack.parameters(index):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise))
    path = tmp_path / "a.safetensors"
    write_adapter(path, stack.adapter(index))
    return base, path


def merged(base: Path, adapter: Path, strength: float) -> dict[str, Tensor]:
    model = with_adapters(load_model(base)[0], [AdapterUse(adapter=read_adapter(adapter), strength=strength)])
    AdapterStack(model.backbone, model.conditioner).merge()  # type: ignore[arg-type]
    return base_tensors(model)


def run(folder: Path, base: Path, *adapters: str, **options: Any) -> Any:
    settings = {"demos": False, "pretrained_ckpt_path": str(base), "adapters": adapters, **options}
    return tiny_run(folder, **settings)


def test_the_run_starts_from_the_merged_weights(tmp_path: Path, files: tuple[Path, Path]) -> None:
    base, adapter = files
    started = run(tmp_path, base, f"{adapter}:0.5", max_steps=1)
    expected = merged(base, adapter, 0.5)
    found = base_tensors(started.module.model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())
    plain = base_tensors(load_model(base)[0])
    assert any(not torch.equal(value, plain[key]) for key, value in found.items())
    assert {id(p) for p in started.module.model.parameters() if p.requires_grad} >= {
        id(p) for p in started.module.model.backbone.parameters()
    }


@pytest.mark.parametrize("weights", ["whole", "difference"])
def test_it_goes_on_without_the_adapter(tmp_path: Path, files: tuple[Path, Path], weights: str) -> None:
    """Its checkpoints hold the merged weights, also those that are frozen."""
    base, adapter = files
    frozen = {"type": "freeze", "config": {"trained": ["conditioner"]}}
    config = tiny_config(transforms=[frozen])
    options: dict[str, Any] = {"checkpoint_weights": weights, "config": config}
    assert run(tmp_path, base, str(adapter), name="whole", max_steps=4, **options).start() == 0
    assert run(tmp_path, base, str(adapter), name="run", max_steps=2, **options).start() == 0
    adapter.unlink()
    assert run(tmp_path, base, str(adapter), name="run", max_steps=4, recover=True, **options).start() == 0
    assert_same_checkpoint(tmp_path / "run" / "last.ckpt", tmp_path / "whole" / "last.ckpt")
    state = base_tensors(load_model(tmp_path / "run" / "last.safetensors")[0])
    assert torch.equal(
        state["backbone.transformer.layers.0.self_attn.to_qkv.weight"],
        load_model(tmp_path / "whole" / "last.safetensors")[0].state_dict()[
            "backbone.transformer.layers.0.self_attn.to_qkv.weight"
        ],
    )


def test_what_is_refused(tmp_path: Path, files: tuple[Path, Path]) -> None:
    base, adapter = files
    with pytest.raises(TrainingError, match="--adapter needs --pretrained-ckpt-path"):
        RunOptions(adapters=["a"])
    with pytest.raises(TrainingError, match="leave one of them out"):
        RunOptions(adapters=["a"], pretrained_ckpt_path="b", ckpt_path="c")
    with pytest.raises(AdapterError, match="applies at noise levels from 0 to"):
        run(tmp_path, base, f"{adapter}:1:0-0.5")
