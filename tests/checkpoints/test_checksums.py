"""Damage inside files is found when they are loaded, wherever it is; files without checksums still load."""

from __future__ import annotations

import json
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stable_audio.checkpoints import CheckpointError, read_checkpoint, save_inference_file
from stable_audio.checkpoints.checksums import save_torch_file
from stable_audio.checkpoints.torch_file import load_torch_file

CONFIG = {"model_type": "autoencoder", "sample_rate": 4000}


def _tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "encoder.weight": torch.randn(40, 30, generator=generator),
        "encoder.low": torch.randn(17, generator=generator).to(torch.bfloat16),
        "encoder.count": torch.tensor(3),
        "encoder.none": torch.zeros(0, 4),
        "encoder.flags": torch.tensor([True, False, True]),
    }


def _training_file(path: Path) -> Path:
    entry = {"format_version": 1, "step": 7, "ema": None}
    save_torch_file({"state_dict": _tensors(), "stable_audio": entry, "lr": 0.125}, path)
    return path


def _inference_file(path: Path) -> Path:
    return save_inference_file(path, _tensors(), CONFIG, info={"step": 7})


def _flip(path: Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(bytes(content))


def _place_of(path: Path, tensor: Tensor) -> int:
    values = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    assert path.read_bytes().count(values) == 1
    return path.read_bytes().index(values)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        same_kind = (
            isinstance(a, Tensor) and isinstance(b, Tensor) and (a.dtype, a.shape) == (b.dtype, b.shape)
        )
        return same_kind and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(v, b[k]) for k, v in a.items())
    return bool(a == b)


def test_a_flipped_bit_in_the_weights_is_found(tmp_path: Path) -> None:
    weight = _tensors()["encoder.weight"]
    for path in (_training_file(tmp_path / "a.ckpt"), _inference_file(tmp_path / "a.safetensors")):
        read_checkpoint(path)
        _flip(path, _place_of(path, weight) + 1234)
        with pytest.raises(CheckpointError, match=r"damaged since.*in 1 part .*copy it again") as caught:
            read_checkpoint(path)
        assert str(path) in str(caught.value)
    assert "encoder.weight" in str(caught.value)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_flip_anywhere_is_found_or_harmless(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write = _training_file if suffix == ".ckpt" else _inference_file
    whole = write(path).read_bytes()
    stored = read_checkpoint(path)
    draw = random.Random(0)
    outcomes = []
    for position in [*draw.sample(range(len(whole)), 150), *range(0, min(len(whole), 600), 7)]:
        path.write_bytes(whole)
        _flip(path, position, draw.randrange(8))
        try:
            again = read_checkpoint(path)
        except CheckpointError:
            outcomes.append("found")
            continue
        assert _same(again.tensors, stored.tensors), position
        assert (again.config, again.info) == (stored.config, stored.info), position
        outcomes.append("harmless")
    assert outcomes.count("found") > 0.5 * len(outcomes)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    whole = (_training_file if suffix == ".ckpt" else _inference_file)(path).read_bytes()
    for size in (0, 1, 8, 100, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            read_checkpoint(path)


def test_fast_checksums_are_those_of_torch(tmp_path: Path) -> None:
    content = {"state_dict": _tensors(), "lr": 0.125}
    torch.save(content, tmp_path / "torch.ckpt")
    save_torch_file(content, tmp_path / "ours.ckpt")
    with zipfile.ZipFile(tmp_path / "torch.ckpt") as theirs, zipfile.ZipFile(tmp_path / "ours.ckpt") as ours:
        assert ours.testzip() is None
        expected = {m.filename.split("/", 1)[1]: m.CRC for m in theirs.infolist()}
        found = {m.filename.split("/", 1)[1]: m.CRC for m in ours.infolist()}
    # The id is made of names and of torch's own checksums.
    assert expected.pop(".data/serialization_id") != 0
    assert found.pop(".data/serialization_id") != 0
    assert found == expected
    # Not only the directory: a reader that goes from member to member finds them behind each.
    data = (tmp_path / "ours.ckpt").read_bytes()
    behind = [crc for crc in found.values() if b"PK\x07\x08" + struct.pack("<I", crc) in data]
    assert len(behind) == len([crc for crc in found.values() if crc])
    assert torch.serialization.get_crc32_options()


def test_files_of_other_programs(tmp_path: Path) -> None:
    # torch.save writes checksums, too; without them there is nothing to compare with.
    weight = _tensors()["encoder.weight"]
    content = {"state_dict": _tensors()}
    torch.save(content, tmp_path / "with.ckpt")
    _flip(tmp_path / "with.ckpt", _place_of(tmp_path / "with.ckpt", weight))
    with pytest.raises(CheckpointError, match="the checksum differs in"):
        load_torch_file(tmp_path / "with.ckpt")
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(content, tmp_path / "without.ckpt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert _same(load_torch_file(tmp_path / "without.ckpt"), content)
    torch.save(content, tmp_path / "legacy.ckpt", _use_new_zipfile_serialization=False)
    assert _same(load_torch_file(tmp_path / "legacy.ckpt"), content)
    save_file(_tensors(), str(tmp_path / "plain.safetensors"))
    assert _same(read_checkpoint(tmp_path / "plain.safetensors").tensors, _tensors())
    # What this program wrote before it wrote checksums.
    metadata = {
        "format": "stable-audio",
        "format_version": "1",
        "weights": "ema",
        "config": json.dumps(CONFIG),
    }
    save_file(_tensors(), str(tmp_path / "old.safetensors"), metadata)
    old = read_checkpoint(tmp_path / "old.safetensors")
    assert (old.weights, old.config, old.info) == ("ema", CONFIG, {"weights": "ema"})


def test_checksums_do_not_show_in_the_facts(tmp_path: Path) -> None:
    assert read_checkpoint(_inference_file(tmp_path / "a.safetensors")).info == {
        "weights": "online",
        "step": "7",
    }
