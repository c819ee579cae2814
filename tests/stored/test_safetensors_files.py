"""Safetensors files: whole or not at all, and errors that name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from stable_audio.adapters import Adapter, AdapterSettings, write_adapter
from stable_audio.checkpoints.diffusers.files import write_part
from stable_audio.conditioning.pretrained.cache import TextCache
from stable_audio.stored.safetensors_files import read_safetensors, write_safetensors

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([7])}
NOT_UTF8 = "caf\udce9.safetensors"


def test_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "x.safetensors"
    write_safetensors(path, TENSORS, {"key": "value"})
    tensors, metadata = read_safetensors(path)
    assert metadata == {"key": "value"}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[key], value) for key, value in TENSORS.items())
    write_safetensors(path, TENSORS)
    assert read_safetensors(path)[1] == {}


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-4]), Path.unlink])
def test_files_that_cannot_be_read_are_named(damage: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, TENSORS)
    damage(path)
    with pytest.raises(ValueError, match=r"x\.safetensors: absent, truncated or damaged"):
        read_safetensors(path)


def test_names_must_be_utf8(tmp_path: Path) -> None:
    for use in (read_safetensors, lambda path: write_safetensors(path, TENSORS)):
        with pytest.raises(ValueError, match=r"caf\\udce9.safetensors: the name has the byte E9"):
            use(tmp_path / NOT_UTF8)
    assert not list(tmp_path.iterdir())


def test_what_is_not_right_does_not_replace_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, TENSORS)

    def wrong(temporary: Path) -> None:
        assert temporary != path
        assert read_safetensors(temporary)[0].keys() == {"c"}
        raise OSError("not right")

    with pytest.raises(OSError, match="not right"):
        write_safetensors(path, {"c": torch.zeros(1)}, verify=wrong)
    assert read_safetensors(path)[0].keys() == TENSORS.keys()
    assert len(list(tmp_path.iterdir())) == 1


def _adapter(folder: Path) -> None:
    layers = {"layer": {"lora_A": torch.zeros(4, 8), "lora_B": torch.zeros(8, 4)}}
    write_adapter(folder / "x.safetensors", Adapter(AdapterSettings(rank=4), layers))


def _features(folder: Path) -> None:
    features = torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool)
    TextCache(folder, meaning="x", whole=False, drop=list)(["a text"], lambda texts: features, "cpu")


WRITERS = {
    "tensors": lambda folder: write_safetensors(folder / "x.safetensors", TENSORS),
    "adapter": _adapter,
    "part of diffusers": lambda folder: write_part(folder, TENSORS, {}, dtype=None),
    "features of texts": _features,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_an_error_of_the_system(
    writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise SafetensorError("Error while serializing: No space left on device")

    monkeypatch.setattr("stable_audio.stored.safetensors_files.save_file", full)
    with pytest.raises(OSError, match=r"\.safetensors was not written: .*No space left"):
        WRITERS[writer](tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
