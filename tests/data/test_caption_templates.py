from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from stable_audio.data import DataError, ItemKey, create_dataset
from stable_audio.data.caption_templates import words
from tests.data.folders import RATE, audio_dir, ramp
from tests.data.test_wds import add, tarfile


def tagged(path: Path, **tags: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        for name, text in tags.items():
            setattr(file, name, text)
        file.write(ramp(2000)[0].numpy())
    return path


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_tags_of_every_format(tmp_path: Path, suffix: str) -> None:
    tagged(tmp_path / f"x.{suffix}", title="Glocke ♪", artist="me")
    dataset = audio_dir(tmp_path, entry={"caption_template": "{title} by {artist}"})
    assert dataset[ItemKey(0, 0)][1]["prompt"] == "Glocke ♪ by me"


def test_the_first_that_can_be_filled(tmp_path: Path) -> None:
    root = tmp_path / "my-drums"
    tagged(root / "a.wav", title="A bell")
    tagged(root / "Kick_01-short.wav")
    tagged(root / "low toms" / "b.wav")
    tagged(root / "c.wav").with_suffix(".txt").write_text("written by hand")
    tagged(root / "d.wav").with_suffix(".json").write_text('{"bpm": 90, "prompt": null}')
    templates = ["{title}", "{bpm} beats", "{folder}, {name}"]
    dataset = audio_dir(root, entry={"caption_template": templates})
    found = {m["relpath"]: m["prompt"] for m in (dataset[ItemKey(i, 0)][1] for i in range(5))}
    assert found == {
        "a.wav": "A bell",
        "Kick_01-short.wav": "my drums, Kick 01 short",
        "low toms/b.wav": "low toms, b",
        "c.wav": "written by hand",
        "d.wav": "90 beats",
    }
    assert dataset.stored_metadata(0) is not None


def test_nothing_to_fill_it_with(tmp_path: Path) -> None:
    tagged(tmp_path / "a.wav")
    dataset = audio_dir(tmp_path, entry={"caption_template": ["{title}"]})
    assert "prompt" not in dataset[ItemKey(0, 0)][1]


def test_in_a_tar(tmp_path: Path) -> None:
    sound = tagged(tmp_path / "x.flac", title="A bell").read_bytes()
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "drums/low_tom.flac", sound)
        add(archive, "drums/low_tom.json", b"{}")
    entry = {"id": "t", "path": str(tmp_path / "a.tar"), "caption_template": "{title}: {folder}, {name}"}
    config = {"dataset_type": "wds", "datasets": [entry]}
    dataset = create_dataset(config, sample_rate=RATE, sample_size=500, audio_channels=1)
    assert dataset[ItemKey(0, 0)][1]["prompt"] == "A bell: drums, low tom"


@pytest.mark.parametrize("template", ["plain", "{name", "{name.x}", "{0!r}", "{name:>9}", "{}", []])
def test_what_is_no_template(tmp_path: Path, template: str) -> None:
    tagged(tmp_path / "a.wav")
    with pytest.raises(DataError, match="caption_template: "):
        audio_dir(tmp_path, entry={"caption_template": template})


def test_words() -> None:
    assert words("Kick_01--short  x") == "Kick 01 short x"
