r"""Captions with half a surrogate pair: U+FFFD stands for it, the clip stays, and reports count it."""

from __future__ import annotations

import json
import logging
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stable_audio.data import ClipDataset, ItemKey, create_dataset
from stable_audio.data.base import Rejected
from stable_audio.data.foresight import warn_of_refused
from stable_audio.data.inspection import inspect_dataset
from stable_audio.data.latents import LatentRecord, read_shard, write_shard
from tests.data.folders import RATE, audio_dir, make_folder
from tests.data.test_wds import add
from tests.data.test_wds import dataset as tars

HALF = {"prompt": "a bell \ud83c", "artists": ["x\udce9"], "k\udfff": 3}
WHOLE = {"prompt": "a bell \ufffd", "artists": ["x\ufffd"], "k\ufffd": 3}

MODULE = r"""
def get_custom_metadata(info, audio):
    return {"prompt": "made \udc00", "tags": {"a\ud800": ("b\ud800",)}}
"""


def metadata_of(dataset: ClipDataset, index: int = 0) -> dict[str, Any]:
    clip = dataset[ItemKey(index, 0)]
    assert not isinstance(clip, Rejected)
    return clip[1]


def test_beside_the_sound(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a.wav": 100})
    (tmp_path / "a.json").write_text(json.dumps(HALF))
    assert metadata_of(audio_dir(tmp_path)).items() >= WHOLE.items()


def test_a_character_in_two_escapes_is_left_alone(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a.wav": 100})
    (tmp_path / "a.json").write_text(r'{"prompt": "\ud83c\udfb9 piano"}')
    assert metadata_of(audio_dir(tmp_path))["prompt"] == "🎹 piano"


@pytest.mark.parametrize("name", ["metadata.jsonl", "captions.json"])
def test_of_a_manifest(tmp_path: Path, name: str) -> None:
    make_folder(tmp_path, {"a.wav": 100, "b.wav": 100})
    rows = [{"path": "a.wav", **HALF}, {"path": "b.wav", "prompt": "fine"}]
    text = "\n".join(map(json.dumps, rows)) if name.endswith("l") else json.dumps(rows)
    (tmp_path / name).write_text(text)
    data = audio_dir(tmp_path, entry={"manifest": str(tmp_path / name)})
    assert metadata_of(data).items() >= WHOLE.items()
    assert metadata_of(data, 1)["prompt"] == "fine"


def test_of_a_custom_module(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a.wav": 100})
    (tmp_path / "module.py").write_text(MODULE)
    found = metadata_of(audio_dir(tmp_path, entry={"custom_metadata_module": str(tmp_path / "module.py")}))
    assert (found["prompt"], found["tags"]) == ("made \ufffd", {"a\ufffd": ("b\ufffd",)})


def test_in_a_tar_with_a_name_in_latin_1(tmp_path: Path) -> None:
    make_folder(tmp_path, {"x.wav": 1000})
    with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in ((b"a", HALF), (b"caf\xe9", {})):
            key = name.decode("utf-8", "surrogateescape")
            add(archive, f"{key}.wav", (tmp_path / "x.wav").read_bytes())
            add(archive, f"{key}.json", json.dumps(content).encode())
    data = tars(
        tmp_path / "t.tar",
        datasets=[{"id": "t", "path": str(tmp_path / "t.tar"), "caption_template": "{name}"}],
    )
    assert metadata_of(data).items() >= WHOLE.items()
    named = metadata_of(data, 1)
    # The name stays what it is in the tar; the caption that is made of it is a text.
    assert (named["__key__"], named["prompt"]) == ("caf\udce9", "caf\ufffd")


def test_beside_latents_of_stable_audio_tools(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 8), np.float32))
    (tmp_path / "a.json").write_text(json.dumps(HALF))
    config = {"dataset_type": "pre_encoded", "datasets": [{"id": "l", "path": str(tmp_path)}]}
    data = create_dataset(config, sample_rate=RATE, sample_size=80, audio_channels=1, downsampling_ratio=10)
    assert metadata_of(data).items() >= WHOLE.items()


def test_in_the_shards_of_the_encode_command(tmp_path: Path) -> None:
    record = LatentRecord("t/caf\udce9.wav", 8, 0, 80, HALF)
    write_shard(tmp_path / "s.safetensors", [(record, torch.zeros(2, 8))])
    (found,) = read_shard(tmp_path / "s.safetensors").records
    # Names are compared with those of the source, so that what is encoded is found again.
    assert (found.part, found.metadata) == (record.part, WHOLE)


def test_reports_count_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_folder(tmp_path, {"a.wav": 100, "b.wav": 100})
    (tmp_path / "a.json").write_text(json.dumps(HALF))
    data = audio_dir(tmp_path)
    assert inspect_dataset(data)["replaced"] == {"prompt": 1, "k\ufffd": 1}
    with caplog.at_level(logging.WARNING):
        warn_of_refused(data, lambda metadata: None)
    assert caplog.messages == [
        f"1 of 2 inspected items could not be read whole, as {tmp_path / 'a.wav'}: U+FFFD is in place of "
        "some characters; data-report counts them by key"
    ]
