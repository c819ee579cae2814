"""Files of adapters: written and read again, and what is said of those that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from stable_audio.adapters import (
    ADAPTER_TYPES,
    AdapterError,
    AdapterSettings,
    AdapterStack,
    read_adapter,
    write_adapter,
)


def adapter(kind: str = "lora", size: int = 4) -> Any:
    torch.manual_seed(0)
    stack = AdapterStack(nn.Sequential(nn.Linear(size, 6)))
    return stack.adapter(stack.add(AdapterSettings(rank=2, alpha=3.0, adapter_type=kind)))


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
@pytest.mark.parametrize("kind", sorted(ADAPTER_TYPES))
def test_files_hold_the_adapter(kind: str, suffix: str, tmp_path: Path) -> None:
    first = adapter(kind)
    path = tmp_path / f"a.{suffix}"
    write_adapter(path, first)
    again = read_adapter(path)
    assert again.settings == first.settings
    for key, value in first.tensors().items():
        stored = value.half().float() if suffix == "safetensors" else value
        assert torch.equal(again.tensors()[key], stored)
    stack = AdapterStack(nn.Sequential(nn.Linear(4, 6)))
    assert {*stack.adapter(stack.add(again)).tensors()} == {*first.tensors()}


def changed(path: Path, how: Any, metadata: dict[str, str] | None = None) -> Path:
    write_adapter(path, adapter("dora-rows"))
    tensors = load_file(path)
    how(tensors)
    values = {"lora_config": json.dumps(adapter("dora-rows").settings.values())}
    save_file(tensors, path, metadata=metadata or values)
    return path


KEY = "model.0.parametrizations.weight.0."


@pytest.mark.parametrize(
    ("how", "metadata", "message"),
    [
        (lambda t: t.pop(KEY + "magnitude"), None, "needs 'lora_A', 'lora_B', 'magnitude'"),
        (lambda t: t.update({"model.0.weight": torch.ones(1)}), None, "is no tensor of an adapter"),
        (lambda t: None, {"lora_config": '{"adapter_type": "lokr"}'}, "found 'lokr'"),
        (lambda t: None, {"lora_config": "{"}, "is not JSON"),
        (lambda t: None, {"lora_config": "[]"}, "an object is needed"),
        (lambda t: t.clear(), None, "has no tensors of an adapter"),
        (lambda t: t.update({KEY + "lora_A": torch.ones(3)}), None, "no matrices"),
    ],
)
def test_what_is_wrong_with_a_file(how: Any, metadata: Any, message: str, tmp_path: Path) -> None:
    path = changed(tmp_path / "a.safetensors", how, metadata)
    with pytest.raises(AdapterError, match=message) as error:
        read_adapter(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_truncated_and_absent_files(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    with pytest.raises(AdapterError, match="no such file"):
        read_adapter(path)
    write_adapter(path, adapter())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(AdapterError, match="truncated"):
        read_adapter(path)
    with pytest.raises(AdapterError, match=r"written as \.safetensors or \.ckpt"):
        write_adapter(tmp_path / "a.pt", adapter())


def test_the_file_of_another_model(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_adapter(path, adapter())
    stack = AdapterStack(nn.Sequential(nn.Linear(5, 6)))
    with pytest.raises(AdapterError, match=r"model\.0 has tensors of the shapes"):
        stack.add(read_adapter(path))
    stack = AdapterStack(nn.ModuleDict({"other": nn.Linear(4, 6)}))
    with pytest.raises(AdapterError, match=r"belongs to another model: this one has no 'model\.0'"):
        stack.add(read_adapter(path))
    assert not stack.settings
