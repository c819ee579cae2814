"""Comments of sound files come back character by character, and change no sample."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from stable_audio.audio import comments
from stable_audio.audio.comments import add_chunk, read_comment
from stable_audio.audio.io import read_audio, read_info, save_audio
from stable_audio.audio.tags import read_tags
from tests.audio.sounds import chirp

RATE = 48000
TEXT = json.dumps({"prompt": 'a  "bell"\n ü \\ 音', "config": "x" * 30_000})
FORMATS = ["wav", "flac", "mp3", "ogg", "opus", "aiff", "m4a"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_folder_whose_name_is_not_utf8(suffix: str, tmp_path: Path) -> None:
    if suffix == "m4a":
        pytest.importorskip("av")
    paths = [tmp_path / name / f"a.{suffix}" for name in ("usual", os.fsdecode(b"caf\xe9"))]
    for path in paths:
        path.parent.mkdir()
        save_audio(path, 0.5 * chirp(0.1, RATE), RATE, comment=TEXT)
    usual, other = ([read_comment(p), read_tags(str(p)), read_info(p).sample_rate] for p in paths)
    assert other == usual
    assert torch.equal(*(read_audio(path)[0] for path in paths))


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_comment_comes_back_and_changes_no_sample(suffix: str, tmp_path: Path) -> None:
    if suffix == "m4a":
        pytest.importorskip("av")
    plain, told = tmp_path / f"plain.{suffix}", tmp_path / f"told.{suffix}"
    sound = 0.5 * chirp(0.301, RATE)
    save_audio(plain, sound, RATE)
    save_audio(told, sound, RATE, comment=TEXT)
    assert read_comment(told) == TEXT
    assert read_comment(plain) is None
    first, second = read_audio(plain)[0], read_audio(told)[0]
    assert torch.equal(first, second)
    assert read_info(told).frames == first.shape[-1]


@pytest.mark.parametrize("subtype", ["16", "24", "float", "PCM_U8"])
@pytest.mark.parametrize("length", [1001, 1002])
def test_chunks_of_wav_files_start_at_even_places(subtype: str, length: int, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    save_audio(path, torch.rand(1, length) - 0.5, RATE, subtype=subtype, comment="abc")
    content = path.read_bytes()
    assert int.from_bytes(content[4:8], "little") == len(content) - 8
    assert content.index(b"LIST") % 2 == 0
    assert read_comment(path) == "abc"
    assert soundfile.info(str(path)).frames == length
    # Another program finds it, too.
    assert read_tags(path)["comment"] == "abc"


def test_short_names_of_sample_formats(tmp_path: Path) -> None:
    for name, subtype in {"16": "PCM_16", "24": "PCM_24", "Float": "FLOAT"}.items():
        save_audio(tmp_path / "a.wav", torch.zeros(1, 10), RATE, subtype=name)
        assert soundfile.info(str(tmp_path / "a.wav")).subtype == subtype


def test_a_file_that_is_full_gets_no_comment(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(comments, "_LARGEST", 3000)
    path = tmp_path / "a.wav"
    save_audio(path, torch.zeros(1, 1000), RATE, comment="x" * 1000)
    assert "too large for a comment" in caplog.text
    assert read_comment(path) is None
    assert read_audio(path)[0].shape == (1, 1000)
    assert add_chunk(path, "short")


@pytest.mark.parametrize(
    "content", [b"", b"RIFF", b"RIFF\xff\xff\xff\xffWAVELIST\xff\xff\xff\x7fINFO", b"FORM" + bytes(99)]
)
def test_damaged_files_have_no_comment(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    assert read_comment(path) is None
    assert read_comment(tmp_path / "none.wav") is None


def test_comments_of_other_programs_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with soundfile.SoundFile(path, "w", RATE, 1, format="WAV") as file:
        file.title, file.comment = "t", "made elsewhere"
        file.write(np.zeros(11))
    assert read_comment(path) == "made elsewhere"
