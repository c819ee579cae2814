from __future__ import annotations

import itertools
import random
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch

from stable_audio.audio.padding import PaddingMask
from stable_audio.data import Batch, ClipDataset, DataError, ItemKey, Rejected, create_loader, make_loader
from stable_audio.data.inspection import inspect_dataset
from stable_audio.data.parts import FileParts
from tests.data.folders import RATE, audio_dir, make_folder

MODULE = """
import torch
def get_custom_metadata(info, audio):
    if info["relpath"] == "no.wav":
        return {"__reject__": True}
    if info["relpath"] == "oops.wav":
        raise KeyError("tempo")
    whole = ((torch.arange(30_000) + 1) / 2**15).expand(1, -1)
    return {"prompt": "from " + info["relpath"], "peak": float(audio.max()), "__audio__": {"stem": whole}}
"""


def test_custom_metadata(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a.wav": 30_000, "no.wav": 2000, "oops.wav": 2000})
    module = tmp_path / "module.py"
    module.write_text(MODULE)
    dataset = audio_dir(tmp_path, entry={"custom_metadata_module": str(module)})
    audio, metadata = dataset[ItemKey(0, 11)]
    assert metadata["prompt"] == "from a.wav"
    assert torch.equal(metadata["stem"], audio)
    assert "__audio__" not in metadata
    assert dataset[ItemKey(1, 0)].reason == "rejected by get_custom_metadata"
    assert "module.py, line 7: KeyError: 'tempo'" in dataset[ItemKey(2, 0)].reason


def test_custom_metadata_in_workers(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a.wav": 30_000, "b.wav": 30_000})
    (tmp_path / "module.py").write_text(MODULE)
    entry = {"id": "a", "path": str(tmp_path), "custom_metadata_module": str(tmp_path / "module.py")}
    config = {"dataset_type": "audio_dir", "datasets": [entry]}
    loader = create_loader(
        config, sample_rate=RATE, sample_size=100, batch_size=2, num_workers=1, endless=False
    )
    prompts = [m["prompt"] for batch in loader for m in batch.metadata]
    assert sorted(prompts) == ["from a.wav", "from b.wav"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (", r"does not load: module.py, line 1: SyntaxError"),
        ("x = 1", "no function get_custom_metadata"),
        (None, "is not a file"),
    ],
)
def test_faulty_custom_metadata(tmp_path: Path, text: str | None, message: str) -> None:
    make_folder(tmp_path, {"a.wav": 100})
    if text is not None:
        (tmp_path / "module.py").write_text(text)
    with pytest.raises(DataError, match=message):
        audio_dir(tmp_path, entry={"custom_metadata_module": str(tmp_path / "module.py")})


HEAD = "import numpy, torch\ndef get_custom_metadata(info, audio):\n"


def with_module(root: Path, text: str, names: tuple[str, ...] = ("a.wav", "b.wav")) -> ClipDataset:
    """Ramps of 2000 samples and a module of this text."""
    make_folder(root, dict.fromkeys(names, 2000))
    (root / "module.py").write_text(text)
    return audio_dir(root, entry={"custom_metadata_module": str(root / "module.py")})


def batches(dataset: ClipDataset, workers: int = 0, count: int = 1, **keywords: int) -> list[Batch]:
    return list(itertools.islice(make_loader(dataset, batch_size=2, num_workers=workers, **keywords), count))


OWN_CLASSES = """
from __future__ import annotations
import enum
from dataclasses import dataclass

class Source(enum.Enum):
    FIELD = 1

@dataclass
class Row:
    prompt: str

def get_custom_metadata(info, audio):
    return {"source": Source.FIELD, "row": Row("a bell"), "prompt": Row("a bell").prompt}
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_classes_of_the_module_come_through(tmp_path: Path, workers: int) -> None:
    (batch,) = batches(with_module(tmp_path, OWN_CLASSES), workers)
    for metadata in batch.metadata:
        assert isinstance(metadata["source"], Enum)
        assert metadata["source"].name == "FIELD"
        assert metadata["row"].prompt == metadata["prompt"] == "a bell"


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ("lambda: 1", "returned 'x' with a function, which worker processes cannot send"),
        ("__import__('threading').Lock()", "returned 'x' with a lock"),
        ("[1, {2: type('Local', (), {})()}]", "returned 'x' with a Local"),
    ],
)
def test_what_cannot_be_sent_is_a_sentence(tmp_path: Path, returned: str, reason: str) -> None:
    dataset = with_module(
        tmp_path, f"def get_custom_metadata(info, audio):\n    return {{'x': {returned}}}\n"
    )
    rejected = dataset[ItemKey(0, 0)]
    assert isinstance(rejected, Rejected)
    assert reason in rejected.reason
    with pytest.raises(DataError, match="worker processes cannot send"):
        batches(dataset, workers=1)


def test_tensors_with_a_history_are_cut_off_from_it(tmp_path: Path) -> None:
    text = HEAD + "    return {'x': torch.ones(2, requires_grad=True) * 2}\n"
    (batch,) = batches(with_module(tmp_path, text), workers=1)
    assert batch.metadata[0]["x"].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("    x = {}\n    return x['bpm']", "module.py, line 3: KeyError: 'bpm'"),
        ("    import sys\n    sys.exit('bye')", "module.py, line 3: it ends the program (SystemExit: bye)"),
        (
            "    return {'__audio__': 5}",
            "__audio__ of get_custom_metadata must be a dict {key: tensor}, found int",
        ),
        ("    return {'__audio__': {'s': 'x'}}", "__audio__['s'] of get_custom_metadata must be a tensor"),
        ("    import torch\n    return {'__audio__': {'s': torch.ones(1, 1, 1)}}", "found (1, 1, 1)"),
        ("    return 5", "must return a dict, it returned int"),
    ],
)
def test_mistakes_of_the_module_are_told_with_its_line(tmp_path: Path, body: str, reason: str) -> None:
    rejected = with_module(tmp_path, f"def get_custom_metadata(info, audio):\n{body}\n")[ItemKey(0, 0)]
    assert isinstance(rejected, Rejected)
    assert reason in rejected.reason


def test_versions_of_the_sound_may_be_arrays(tmp_path: Path) -> None:
    text = HEAD + "    return {'__audio__': {'s': numpy.arange(2000.0)}}\n"
    audio, metadata = with_module(tmp_path, text)[ItemKey(0, 3)]
    assert metadata["s"].shape == audio.shape
    torch.testing.assert_close(metadata["s"], (audio * 2**15 - 1).round())


def test_the_report_runs_the_module(tmp_path: Path) -> None:
    text = (
        "def get_custom_metadata(i, a):\n    return {'prompt': 'x', '__reject__': i['relpath'] == 'b.wav'}\n"
    )
    found = inspect_dataset(with_module(tmp_path, text))
    assert found["captions"] == 1
    assert found["rejected"] == {"rejected by get_custom_metadata": [str(tmp_path / "b.wav")]}


DRAWS = """
import random
import numpy
import torch
def get_custom_metadata(info, audio):
    return {"draws": (random.random(), float(numpy.random.rand()), float(torch.rand(())))}
"""


def draws(found: list[Batch]) -> list[tuple[float, ...]]:
    return [metadata["draws"] for batch in found for metadata in batch.metadata]


def test_draws_of_the_module_belong_to_the_item(tmp_path: Path) -> None:
    """Equal with any number of workers and processes and after a resume; else different."""
    dataset = with_module(tmp_path, DRAWS)
    alone = draws(batches(dataset, count=4))
    assert len({value for drawn in alone for value in drawn}) == 24
    assert draws(batches(dataset, workers=2, count=4)) == alone
    assert draws(batches(dataset, count=4, seed=1)) != alone
    loader = make_loader(dataset, batch_size=2)
    next(iter(loader))
    resumed = make_loader(dataset, batch_size=2)
    resumed.load_state_dict(loader.state_dict())
    assert draws(list(itertools.islice(resumed, 3))) == alone[2:]
    ranks = [make_loader(dataset, batch_size=1, rank=r, world_size=2) for r in range(2)]
    parted = [draws(list(itertools.islice(rank, 4))) for rank in ranks]
    assert [d for pair in zip(*parted, strict=True) for d in pair] == alone


def test_other_random_numbers_go_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    dataset = with_module(tmp_path, DRAWS)
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = (random.random(), np.random.rand(), torch.rand(1))
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    dataset[ItemKey(0, 9)]
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected


def test_encoded_parts_draw_their_own_numbers(tmp_path: Path) -> None:
    parts = FileParts(with_module(tmp_path, DRAWS), crop=500)
    found = [parts[ItemKey(i, 0)][1]["draws"] for i in range(len(parts))]
    assert len(set(found)) == len(found) == 8


def test_modules_get_the_padding_mask_as_a_tensor_and_workers_send_two_numbers(tmp_path: Path) -> None:
    text = """
def get_custom_metadata(info, audio):
    mask = info["padding_mask"]
    return {"shape": tuple(mask.shape), "sound": float((mask * 2).sum()), "dtype": str(mask.dtype)}
"""
    for batch in batches(with_module(tmp_path, text), workers=1):
        for metadata in batch.metadata:
            mask = metadata["padding_mask"]
            assert isinstance(mask, PaddingMask)
            assert len(mask) == batch.audio.shape[-1]
            assert metadata["shape"] == (len(mask),)
            assert metadata["sound"] == 2 * mask.real
            assert metadata["dtype"] == "torch.float32"


def test_a_mask_of_the_module_takes_the_place_of_ours(tmp_path: Path) -> None:
    text = """
import torch
def get_custom_metadata(info, audio):
    return {"padding_mask": torch.zeros_like(info["padding_mask"])}
"""
    (batch,) = batches(with_module(tmp_path, text))
    assert all(m["padding_mask"].sum() == 0 for m in batch.metadata)
