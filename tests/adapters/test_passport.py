"""What an adapter was trained on: written with it, read again, and compared with the model at hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from stable_audio.adapters import (
    Adapter,
    AdapterError,
    AdapterSettings,
    AdapterStack,
    BaseModel,
    Passport,
    TrainingClips,
    base_hash,
    check_base,
    read_adapter,
    write_adapter,
)

PASSPORT = Passport(
    base=BaseModel(name="large.safetensors", path="/models/large.safetensors", hash="ab" * 32),
    data=TrainingClips(hash="cd" * 32, clips=24),
    config_hash="ef" * 32,
    step=500,
    seed=3,
    software="stable-audio 0.1.0",
)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.conditioner = (
            nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4)),
            nn.Sequential(nn.Linear(4, 4)),
        )
        self.pretransform = nn.Linear(2, 2)


def adapter(model: Any, passport: Passport | None = PASSPORT) -> Adapter:
    stack = AdapterStack(model.backbone, model.conditioner)
    return replace(stack.adapter(stack.add(AdapterSettings(rank=2))), passport=passport)


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_files_have_the_passport(suffix: str, tmp_path: Path) -> None:
    for passport in (PASSPORT, Passport(step=1), None):
        write_adapter(tmp_path / f"a.{suffix}", adapter(Model(), passport))
        assert read_adapter(tmp_path / f"a.{suffix}").passport == passport


def test_others_find_their_own_entry_beside_it(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a.safetensors", adapter(Model()))
    with safe_open(str(tmp_path / "a.safetensors"), framework="pt") as file:
        metadata = file.metadata()
    assert {*metadata} == {"lora_config", "passport"}
    assert json.loads(metadata["passport"])["data"] == {"hash": "cd" * 32, "clips": 24}
    assert json.loads(metadata["lora_config"])["rank"] == 2


def test_the_folder_of_a_run_stands_for_its_last_adapter(tmp_path: Path) -> None:
    write_adapter(tmp_path / "last.safetensors", adapter(Model()))
    assert read_adapter(tmp_path).source == str(tmp_path / "last.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AdapterError, match=r"empty: the folder has no last\.safetensors"):
        read_adapter(tmp_path / "empty")


def test_entries_of_later_versions_are_left_out() -> None:
    values = {**json.loads(PASSPORT.as_json()), "colour": "red"}
    values["base"]["size"] = 3
    assert Passport.from_json(json.dumps(values)) == PASSPORT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "an object is needed"),
        ("{", "copy the file again"),
        ('{"base": "large"}', "base: found 'large', but an object with hash, name, path"),
        ('{"data": {"hash": "a", "clips": "many"}}', "data.clips: found 'many'"),
        ('{"step": true}', "step: found True"),
    ],
)
def test_what_is_wrong_with_a_passport(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_adapter(path, adapter(Model()))
    settings = json.dumps(AdapterSettings(rank=2).values())
    save_file(load_file(path), path, metadata={"lora_config": settings, "passport": text})
    with pytest.raises(AdapterError, match=message) as error:
        read_adapter(path)
    assert f"{path}, passport: " in str(error.value)


def test_the_hash_is_that_of_backbone_and_conditioner() -> None:
    model: Any = Model()
    first = base_hash(model)
    assert base_hash(Model().half()) == first
    adapter(model)
    assert base_hash(model) == first, "adapters count"
    nn.init.ones_(model.pretransform.weight)
    assert base_hash(model) == first, "the pretransform counts"
    for part in ("backbone.1.weight", "conditioner.0.bias"):
        other = Model()
        other.get_parameter(part).data[0] += 1
        assert base_hash(other) != first


def test_an_adapter_of_another_model_is_refused_unless_told() -> None:
    model, other = Model(), Model()
    own = Passport(base=BaseModel(name="large.safetensors", path="", hash=base_hash(model)))
    check_base(model, [adapter(model, own), adapter(model, None)], name="mine.safetensors")
    nn.init.ones_(other.conditioner[0].bias)
    sentence = (
        r"the adapter: was trained on large\.safetensors \(hash \w{16}\), but this model is "
        r"mine\.safetensors \(hash \w{16}\); use large\.safetensors, or add --any-base"
    )
    with pytest.raises(AdapterError, match=sentence):
        check_base(other, [adapter(model, None), adapter(model, own)], name="mine.safetensors")
    check_base(other, [adapter(model, own)], name="mine.safetensors", any_base=True)
    check_base(other, [adapter(model, None)], name="mine.safetensors")
