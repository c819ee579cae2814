from pathlib import Path

import pytest
import torch

from stable_audio.audio.io import save_audio
from stable_audio.conditioning.values import NumberValue, TextValue, ValueCheck
from stable_audio.data.base import DataError
from stable_audio.training.finetune.clips import FolderClips, read_folder
from tests.training.finetune.sounds import RATE, write_sounds


def read(folder: Path, **settings: object) -> FolderClips:
    values = {"sample_rate": RATE, "sample_size": 1024, "channels": 1, **settings}
    return read_folder(folder, **values)  # type: ignore[arg-type]


def test_captions_come_from_beside_the_sound_or_from_its_name(tmp_path: Path) -> None:
    clips = read(write_sounds(tmp_path / "s", 2)).clips
    assert [c.metadata["prompt"] for c in clips] == ["a zorb, note 0", "warm tone 1"]
    assert [c.from_name for c in clips] == [False, True]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [("{folder}: {name}", "s: warm tone 1"), ("one for all", "one for all")],
)
def test_a_template_or_one_text_for_all(tmp_path: Path, caption: str, expected: str) -> None:
    clips = read(write_sounds(tmp_path / "s", 2), caption=caption).clips
    assert clips[1].metadata["prompt"] == expected
    assert clips[0].metadata["prompt"] == "a zorb, note 0"


def test_short_models_get_exact_lengths_and_long_ones_whole_seconds(tmp_path: Path) -> None:
    folder = write_sounds(tmp_path / "s", 1)
    assert read(folder).clips[0].metadata["seconds_total"] == pytest.approx(0.2)
    assert "seconds_total" not in read(folder, sample_size=10 * RATE).clips[0].metadata
    (folder / "warm_tone-0.json").write_text('{"seconds_total": 0.15}')
    for size in (1024, 10 * RATE):
        assert read(folder, sample_size=size).clips[0].metadata["seconds_total"] == 0.15


def test_the_report_names_every_file_that_is_left_out_and_says_what_is_converted(tmp_path: Path) -> None:
    folder = write_sounds(tmp_path / "s", 2)
    save_audio(folder / "other.wav", 0.1 * torch.randn(2, 3000), 8000)
    save_audio(folder / "silent.wav", torch.zeros(1, 3000), RATE)
    (folder / "broken.wav").write_bytes(b"RIFF")
    (folder / "notes.pdf").write_bytes(b"x")
    lines = list(read(folder).lines(sample_rate=RATE, channels=1))
    text = "\n".join(lines)
    assert lines[0].startswith("sounds       3 of 5 can be used")
    assert "silent.wav" in text
    assert "broken.wav" in text
    assert "1 at 8000 Hz, converted to 4000 Hz" in text
    assert "1 with 2 channels, converted to 1" in text
    assert lines[-1] == "not read     .pdf (1)"


def test_what_the_conditioners_refuse_is_left_out(tmp_path: Path) -> None:
    folder = write_sounds(tmp_path / "s", 2)
    (folder / "warm_tone-0.json").write_text('{"bpm": 90}')
    rules = {"prompt": TextValue(), "bpm": NumberValue(0, 200)}
    found = read(folder, check=ValueCheck(rules))
    assert [c.path for c in found.clips] == ["warm_tone-0.wav"]
    assert [files for files in found.unusable.values()] == [["warm_tone-1.wav"]]
    assert "bpm" in next(iter(found.unusable))


def test_no_folder_and_no_usable_sound(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read(tmp_path / "none")
    silent = tmp_path / "silent"
    silent.mkdir()
    save_audio(silent / "a.wav", torch.zeros(1, 3000), RATE)
    with pytest.raises(DataError, match=r"none of its 1 sound can be used .*silent"):
        read(silent)


def test_names_without_a_letter_are_no_captions(tmp_path: Path) -> None:
    folder = write_sounds(tmp_path / "s", 2)
    (folder / "warm_tone-0.txt").unlink()
    for number in range(2):
        (folder / f"warm_tone-{number}.wav").rename(folder / f"0{number}.wav")
    check = ValueCheck({"prompt": TextValue()})
    with pytest.raises(DataError, match=r"no captions.*'00\.wav'.*--caption"):
        read(folder, check=check)
    assert len(read(folder, check=check, caption="a zorb").clips) == 2
    assert len(read(folder).clips) == 2  # the model reads no prompts
    (folder / "01.txt").write_text("a zorb")
    assert len(read(folder, check=check).clips) == 2


def test_a_template_that_cannot_be_filled_is_named(tmp_path: Path) -> None:
    check = ValueCheck({"prompt": TextValue()})
    folder = write_sounds(tmp_path / "s", 2)
    found = read(folder, check=check, caption="{mood} zorb")
    assert [c.path for c in found.clips] == ["warm_tone-0.wav"]  # it has a caption of its own
    reason = "no caption, and it lacks what --caption '{mood} zorb' is made of"
    assert found.unusable == {reason: ["warm_tone-1.wav"]}
    (folder / "warm_tone-1.json").write_text('{"mood": "warm"}')
    captions = [c.metadata["prompt"] for c in read(folder, check=check, caption="{mood} zorb").clips]
    assert captions == ["a zorb, note 0", "warm zorb"]


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    folder = write_sounds(tmp_path / "s", 2)
    first, second = read(folder).clips
    assert first.digest != second.digest
    (folder / "copy.wav").write_bytes((folder / first.path).read_bytes())
    assert next(c for c in read(folder).clips if c.path == "copy.wav").digest == first.digest
