"""Long lists as bytes: the same items, and no copies of them in data workers."""

from __future__ import annotations

import pickle
from array import array
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

from stable_audio.data import audio_dir, captions, compact
from stable_audio.data.audio_dir import AudioDirDataset, AudioDirEntry
from stable_audio.data.compact import CompactMapping, compact_pairs, compact_texts, compact_values
from stable_audio.data.scan import Scan

MEMORY = Path("/proc/self/smaps_rollup")
TEXTS = ["b", "", "ä/ö.wav", "caf\udce9.wav", "🎵", "a" * 300]


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (compact_texts, TEXTS),
        (compact_pairs, [(0, 1), (3, -1), (2**40, 7)]),
        (compact_values, [{"prompt": "bell", "bpm": 1.5}, None, ("a", [1])]),
        (compact_texts, []),
    ],
)
def test_items_are_those_of_a_list(make: Any, values: list[Any]) -> None:
    for found in (make(values), make(iter(values)), pickle.loads(pickle.dumps(make(values)))):
        assert list(found) == values
        assert len(found) == len(values)
        assert [found[i] for i in range(-len(values), len(values))] == [*values, *values]
        assert (found[1:], found[::-2]) == (values[1:], values[::-2])
        for beyond in (len(values), -len(values) - 1):
            with pytest.raises(IndexError):
                found[beyond]


def test_a_mapping_finds_what_it_was_made_of() -> None:
    values = {text: {"prompt": text, "number": i} for i, text in enumerate(TEXTS)}
    found = CompactMapping(values)
    assert dict(found) == values
    assert found.get("a") is None
    assert "zzz" not in found
    assert len(found) == len(values)
    found["b"]["prompt"] = "another"
    assert found["b"] == values["b"]
    assert dict(CompactMapping({})) == {}


def test_texts_of_one_digest_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "_digest", len)
    values = {text: f"of {text}" for text in ("a", "b", "cc", "dd", "e")}
    found = CompactMapping(values)
    assert {text: found.get(text) for text in (*values, "x", "xxx")} == {**values, "x": None, "xxx": None}


COUNT = 50_000


class _Worker(Dataset):
    """One item: the memory in MB that reading all metadata of a dataset makes a worker's own."""

    def __init__(self, dataset: AudioDirDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> float:
        before = _own_memory()
        for place in range(COUNT):
            self.dataset.stored_metadata(place)
        return _own_memory() - before


def _own_memory() -> float:
    line = next(line for line in MEMORY.read_text().splitlines() if line.startswith("Private_Dirty:"))
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(not MEMORY.is_file(), reason="the system does not tell whose memory is whose")
@pytest.mark.parametrize("manifest", [None, "all.csv"])
def test_a_worker_has_no_list_of_its_own(monkeypatch: pytest.MonkeyPatch, manifest: str | None) -> None:
    """As objects of Python, the paths would be 6 MB, and 14 MB with the rows of a manifest."""
    folder = "/sounds/a-folder-of-some-depth"
    paths = [f"{folder}/part-{i // 500:04d}/{i:09d}-a-title-of-a-sound.flac" for i in range(COUNT)]
    rows = {path: {"prompt": f"a caption for the sound {i}", "bpm": i} for i, path in enumerate(paths)}
    monkeypatch.setattr(
        audio_dir, "find_files", lambda *_, **__: Scan(paths=paths, sizes=array("q", [1]) * COUNT)
    )
    monkeypatch.setattr(captions, "read_manifest", lambda *_, **__: (rows, []))
    entry = AudioDirEntry(id="a", path="/sounds", manifest=manifest, captions=False)
    dataset = AudioDirDataset(sample_rate=44100, sample_size=512, datasets=[entry])
    (grown,) = DataLoader(_Worker(dataset), num_workers=1, multiprocessing_context="fork")
    assert float(grown) < 3
    assert dataset.paths[3] == paths[3]
    assert (dataset.stored_metadata(3) or {}).get("bpm") == (3 if manifest else None)
