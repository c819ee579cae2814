"""The documentation names every key and no other."""

from dataclasses import fields
from pathlib import Path

import pytest

from stable_audio.data import DATASETS, RUNTIME_KEYS
from stable_audio.data.audio_dir import AudioDirEntry
from stable_audio.data.pre_encoded import PreEncodedEntry
from stable_audio.options import keywords_of

TEXT = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["audio_dir", "pre_encoded"])
def test_every_key_is_documented(name: str) -> None:
    keys = [k for k in keywords_of(DATASETS[name]) if k not in RUNTIME_KEYS]
    keys += [f.name for f in fields(AudioDirEntry)] + [f.name for f in fields(PreEncodedEntry)]
    missing = [key for key in keys if f"`{key}`" not in TEXT and f'"{key}"' not in TEXT]
    assert not missing
