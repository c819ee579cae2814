from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.audio import layout, reader
from stable_audio.audio.io import AUDIO_EXTENSIONS, read_info, save_audio
from stable_audio.audio.loudness import integrated_loudness
from stable_audio.audio.resample import resample
from stable_audio.config import ConfigError
from stable_audio.data import DataError, ItemKey, Rejected, create_dataset, create_loader
from stable_audio.data.audio_dir import below
from stable_audio.data.crop import Crop, choose_crop, read_crop
from stable_audio.data.inspection import inspect_dataset
from tests.audio.sounds import chirp
from tests.data.folders import RATE, audio_dir, make_folder, position, ramp


def test_scan(tmp_path: Path) -> None:
    make_folder(
        tmp_path, {"b.wav": 100, "a/ü 音.flac": 100, "a/c.aiff": 100, ".hidden.wav": 100, ".git/x.wav": 100}
    )
    (tmp_path / "notes.md").write_text("not sound")
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    dataset = audio_dir(tmp_path)
    assert [os.path.relpath(p, tmp_path) for p in dataset.paths] == ["a/c.aiff", "a/ü 音.flac", "b.wav"]
    assert {".wav", ".flac", ".mp3", ".ogg", ".aiff", ".aif", ".opus", ".m4a"} <= AUDIO_EXTENSIONS


@pytest.mark.parametrize("seed", range(5))
def test_a_random_crop_and_its_metadata(tmp_path: Path, seed: int) -> None:
    make_folder(tmp_path, {"a.wav": 30_000})
    audio, metadata = audio_dir(tmp_path)[ItemKey(0, seed)]
    at = position(audio)
    assert torch.equal(audio, ramp(30_000)[:, at : at + 1000])
    assert metadata["seconds_start"] == at // RATE
    assert metadata["seconds_total"] == 4
    assert metadata["timestamps"] == pytest.approx((at / 30_000, (at + 1000) / 30_000))
    assert metadata["padding_mask"].tolist() == [1] * 1000
    assert metadata["relpath"] == "a.wav"
    assert metadata["path"] == str(tmp_path / "a.wav")
    assert metadata["sample_rate"] == RATE
    assert metadata["load_time"] > 0
    again, _ = audio_dir(tmp_path)[ItemKey(0, seed)]
    assert torch.equal(audio, again)


def test_crops_reach_both_ends(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a.wav": 1003})
    dataset = audio_dir(tmp_path)
    assert {position(dataset[ItemKey(0, s)][0]) for s in range(100)} == {0, 1, 2, 3}
    fixed = audio_dir(tmp_path, random_crop=False)
    assert {position(fixed[ItemKey(0, s)][0]) for s in range(9)} == {0}


def test_a_short_file_is_padded(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a.wav": 300})
    audio, metadata = audio_dir(tmp_path)[ItemKey(0, 7)]
    assert torch.equal(audio[:, :300], ramp(300))
    assert not audio[:, 300:].any()
    assert metadata["padding_mask"].tolist() == [1] * 300 + [0] * 700
    assert (metadata["seconds_start"], metadata["seconds_total"]) == (0, 1)
    assert metadata["timestamps"] == (0.0, 1.0)


@pytest.mark.parametrize(
    ("source", "target"), [(44100, 16000), (44100, 48000), (22050, 44100), (48000, 8000)]
)
def test_a_resampled_crop_is_a_slice_of_the_resampled_file(tmp_path: Path, source: int, target: int) -> None:
    whole = chirp(3.0, source)
    save_audio(tmp_path / "a.wav", whole, source, subtype="FLOAT")
    info = read_info(tmp_path / "a.wav")
    expected = resample(whole, source, target)
    for seed in range(6):
        crop = choose_crop(
            info.frames,
            source,
            sample_rate=target,
            length=target // 2,
            generator=torch.Generator().manual_seed(seed),
        )
        assert crop.total == expected.shape[1]
        audio = read_crop(info, crop)
        part = expected[:, crop.offset : crop.offset + crop.length]
        assert (audio - part).abs().max() < 1e-4
    end = Crop(offset=crop.total // 160 * 160 - 320, length=2000, total=crop.total, sample_rate=target)
    if end.offset % (target // 100) == 0:
        audio = read_crop(info, end)
        assert not audio[:, end.real :].any()


def test_channels_and_six_of_them(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a.wav": 500}, channels=6)
    assert audio_dir(tmp_path, size=500)[ItemKey(0, 0)][0].shape == (1, 500)
    config = {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": str(tmp_path)}]}
    four = create_dataset(config, sample_rate=RATE, sample_size=500, audio_channels=4)
    assert four[ItemKey(0, 0)][0].shape == (4, 500)
    make_folder(tmp_path, {"a.wav": 500}, channels=2)
    rejected = four[ItemKey(0, 0)]
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "has 2 channels, the model needs 4"


def test_phase_flip(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a.wav": 100})
    signs = [float(audio_dir(tmp_path, phase_flip=0.5)[ItemKey(0, s)][0][0, 50].sign()) for s in range(200)]
    assert 70 < signs.count(-1.0) < 130
    config = {
        "dataset_type": "audio_dir",
        "datasets": [{"id": "a", "path": str(tmp_path)}],
        "phase_flip": 1.0,
    }
    plain = create_dataset(config, sample_rate=RATE, sample_size=100, audio_channels=1, augment=False)
    assert plain[ItemKey(0, 0)][0][0, 50] > 0


def test_volume_norm(tmp_path: Path) -> None:
    save_audio(tmp_path / "a.wav", 0.05 * chirp(1.0, RATE, 1), RATE)
    dataset = audio_dir(tmp_path, size=RATE, volume_norm=True, volume_norm_param=[-20.0, 0.0])
    assert integrated_loudness(dataset[ItemKey(0, 0)][0], RATE) == pytest.approx(-20.0, abs=0.2)
    varied = audio_dir(tmp_path, size=RATE, volume_norm=True, volume_norm_param=[-20.0, 2.0])
    levels = {round(integrated_loudness(varied[ItemKey(0, s)][0], RATE)) for s in range(8)}
    assert len(levels) > 2


def test_strip_silence(tmp_path: Path) -> None:
    sound = torch.cat([0.5 * torch.ones(1, 2 * RATE), torch.zeros(1, 4 * RATE)], dim=1)
    save_audio(tmp_path / "a.wav", sound, RATE)
    _, metadata = audio_dir(tmp_path, strip_silence=True)[ItemKey(0, 0)]
    assert metadata["seconds_total"] == 2


def test_silence_is_rejected_by_name(tmp_path: Path) -> None:
    save_audio(tmp_path / "quiet.wav", 0.0005 * torch.ones(1, 2000), RATE)
    rejected = audio_dir(tmp_path)[ItemKey(0, 0)]
    assert isinstance(rejected, Rejected)
    assert "below -60 dB" in rejected.reason
    assert not isinstance(audio_dir(tmp_path, silence_threshold_db=None)[ItemKey(0, 0)], Rejected)


def test_faulty_files_are_named_and_the_rest_is_used(tmp_path: Path) -> None:
    make_folder(tmp_path, {f"good{i}.wav": 2000 for i in range(4)})
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("no sound here " * 20)
    whole = (tmp_path / "good0.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    config = {
        "dataset_type": "audio_dir",
        "datasets": [{"id": "a", "path": str(tmp_path)}],
        "drop_last": False,
    }
    loader = create_loader(
        config, sample_rate=RATE, sample_size=500, audio_channels=1, batch_size=2, endless=False
    )
    names = [m["relpath"] for batch in loader for m in batch.metadata]
    assert sorted(names) == [f"good{i}.wav" for i in range(4)]
    left_out = {os.path.basename(p): r for p, r in loader.report.reasons.items()}
    assert set(left_out) == {"empty.wav", "text.wav", "cut.wav"}
    assert "0 bytes" in left_out["empty.wav"]
    assert "cut off" in left_out["cut.wav"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_folder_is_reported(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a.wav": 100, "closed/b.wav": 100})
    (tmp_path / "closed").chmod(0)
    try:
        dataset = audio_dir(tmp_path)
    finally:
        (tmp_path / "closed").chmod(0o755)
    assert [p.path for p in dataset.problems] == [str(tmp_path / "closed")]


def test_a_folder_that_cannot_be_read_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path, {"a.wav": 100, "closed/b.wav": 100})
    scandir = os.scandir

    def guarded(path: str):
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    dataset = audio_dir(tmp_path)
    assert len(dataset) == 1
    assert [(p.path, p.reason) for p in dataset.problems] == [
        (str(tmp_path / "closed"), "folder cannot be read: Permission denied")
    ]


def test_weights_and_several_folders(tmp_path: Path) -> None:
    make_folder(tmp_path / "one", {"a.wav": 100})
    make_folder(tmp_path / "one_more", {"b.wav": 100, "c.wav": 100})
    config = {
        "dataset_type": "audio_dir",
        "datasets": [
            {"id": "x", "path": str(tmp_path / "one"), "weight": 3.0},
            {"id": "y", "path": str(tmp_path / "one_more")},
        ],
    }
    dataset = create_dataset(config, sample_rate=RATE, sample_size=100)
    assert dataset.weights == [3.0, 1.0, 1.0]
    assert [dataset[ItemKey(i, 0)][1]["dataset"] for i in range(3)] == ["x", "y", "y"]
    assert [dataset[ItemKey(i, 0)][1]["relpath"] for i in range(3)] == ["a.wav", "b.wav", "c.wav"]


def test_keywords_and_file_lists(tmp_path: Path) -> None:
    make_folder(tmp_path, {"Kick 1.wav": 100, "snare.wav": 100, "sub/kick.wav": 100})
    assert len(audio_dir(tmp_path, entry={"keywords": ["kick"]})) == 2
    (tmp_path / "mine.txt").write_text("snare.wav\n# a comment\n\nmissing.wav\n")
    listed = audio_dir(tmp_path, entry={"filelist_path": str(tmp_path / "mine.txt")})
    assert [os.path.basename(p) for p in listed.paths] == ["snare.wav"]
    assert [os.path.basename(p.path) for p in listed.problems] == ["missing.wav"]
    (tmp_path / "filelist.txt").write_text("sub/kick.wav\n")
    assert [os.path.basename(p) for p in audio_dir(tmp_path).paths] == ["kick.wav"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"datasets": []}, r"\$\.datasets: empty"),
        ({"dataset_type": "audio_dri"}, r"did you mean 'audio_dir'\?"),
        ({"random_cropp": True}, r"\$\.random_cropp: unknown key.*did you mean 'random_crop'"),
        ({"datasets": [{"id": "a", "path": "nowhere"}]}, "nowhere: there is no such folder"),
        ({"datasets": [{"id": "a"}]}, r"\$\.datasets\[0\]\.path: missing"),
        ({"datasets": [{"id": "a", "path": ".", "wight": 1}]}, r"\$\.datasets\[0\]\.wight.*'weight'"),
        ({"datasets": [{"id": "a", "path": "."}] * 2}, "ids must differ"),
        ({"phase_flip": 2.0}, "phase_flip: a probability"),
        ({"datasets": [{"id": "a", "path": ".", "weight": -1}]}, r"\$\.datasets\[0\]\.weight.*found -1"),
        ({"datasets": [{"id": "a", "path": ".", "weight": 0}]}, "every weight is 0"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, change: dict, message: str) -> None:
    make_folder(tmp_path, {"a.wav": 100})
    config = {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": str(tmp_path)}], **change}
    with pytest.raises((DataError, ConfigError), match=message):
        create_dataset(config, sample_rate=RATE, sample_size=100)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no usable file found"):
        audio_dir(tmp_path)


def test_side_car_captions(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a.wav": 100, "b.wav": 100, "c.wav": 100, "d.wav": 100, "e.wav": 100})
    (tmp_path / "a.txt").write_text("\ufeffein Klang ♪\n", encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps({"caption": "a sound", "bpm": 120, "padding_mask": 3}))
    (tmp_path / "d.json").write_text("{not json")
    (tmp_path / "e.json").write_text("[1]")
    dataset = audio_dir(tmp_path)
    first, second, third = (dataset[ItemKey(i, 0)][1] for i in range(3))
    assert first["prompt"] == "ein Klang ♪"
    assert (second["prompt"], second["bpm"]) == ("a sound", 120)
    assert len(second["padding_mask"]) == 1000
    assert "prompt" not in third
    assert dataset[ItemKey(3, 0)].reason.startswith("d.json: line 1, column 2: is not JSON")
    assert "must hold a JSON object" in dataset[ItemKey(4, 0)].reason
    assert "prompt" not in audio_dir(tmp_path, entry={"captions": False})[ItemKey(0, 0)][1]


def test_manifests(tmp_path: Path) -> None:
    make_folder(tmp_path, {"sub/a.wav": 100, "b.wav": 100})
    (tmp_path / "metadata.csv").write_text('file_name,text,bpm\nsub/a.wav,"808, slow",90.5\ngone.wav,x,1\n')
    dataset = audio_dir(tmp_path)
    found = {m["relpath"]: m for m in (dataset[ItemKey(i, 0)][1] for i in range(2))}
    assert found["sub/a.wav"]["prompt"] == "808, slow"
    assert found["sub/a.wav"]["bpm"] == 90.5
    assert "prompt" not in found["b.wav"]
    assert [os.path.basename(p.path) for p in dataset.problems] == ["gone.wav"]
    (tmp_path / "sub" / "a.txt").write_text("the text file wins")
    rows = [{"path": "sub/a.wav", "prompt": "from jsonl"}, {"path": "b.wav", "prompt": "808"}]
    listing = tmp_path / "list.jsonl"
    listing.write_text("\n".join(json.dumps(r) for r in rows))
    dataset = audio_dir(tmp_path, entry={"manifest": str(listing)})
    assert {dataset[ItemKey(i, 0)][1]["prompt"] for i in range(2)} == {"the text file wins", "808"}
    listing.write_text('{"prompt": "no file"}')
    with pytest.raises(DataError, match=r"none of its 1 row names a file.*row 1 names no file"):
        audio_dir(tmp_path, entry={"manifest": str(listing)})


def test_a_name_that_is_not_utf8_is_reported(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a.wav": 100})
    os.rename(os.fsencode(tmp_path / "a.wav"), os.fsencode(tmp_path) + b"/caf\xe9.wav")
    make_folder(tmp_path, {"b.wav": 100})
    dataset = audio_dir(tmp_path)
    assert [os.path.basename(p) for p in dataset.paths] == ["b.wav"]
    assert dataset.problems[0].reason == "its name is not UTF-8; rename it"
    assert dataset.problems[0].path.endswith("caf\\xe9.wav")


def test_null_and_blank_captions(tmp_path: Path) -> None:
    """What is null or blank is no caption, and never wins."""
    said = {
        "a": ({"prompt": None, "text": "a bell"}, None),
        "b": ({"prompt": None}, "from the text file"),
        "c": ({"prompt": None, "bpm": None}, None),
        "d": ({"caption": "from json"}, "from the text file"),
        "e": ({"prompt": "  "}, "from the text file"),
        "f": ({}, "  "),
        "g": ({"prompt": ["one"]}, None),
    }
    for name, (beside, text) in said.items():
        make_folder(tmp_path, {f"{name}.wav": 2000})
        (tmp_path / f"{name}.json").write_text(json.dumps(beside))
        if text is not None:
            (tmp_path / f"{name}.txt").write_text(text)
    dataset = audio_dir(tmp_path)
    prompts = [dataset[ItemKey(i, 0)][1].get("prompt") for i in range(7)]
    assert prompts == ["a bell", "from the text file", None, "from json", "from the text file", None, "one"]
    assert dataset[ItemKey(2, 0)][1]["bpm"] is None
    found = inspect_dataset(dataset)
    assert found["captions"] == pytest.approx(5 / 7)
    assert found["null"] == {"bpm": 1}
    assert found["keys"]["prompt"] == 5


def test_side_cars_that_cannot_be_read_name_themselves(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a.wav": 2000, "b.wav": 2000, "c.wav": 2000})
    (tmp_path / "a.json").write_text("[" * 100_000)
    (tmp_path / "b.json").write_text('{"bpm": ' + "1" * 5000 + "}")
    os.mkfifo(tmp_path / "c.txt")
    dataset = audio_dir(tmp_path)
    reasons = [dataset[ItemKey(i, 0)].reason for i in range(3)]
    assert reasons[0].startswith("a.json: nests deeper than")
    assert reasons[1].startswith("b.json:")
    assert "5000 digits" in reasons[1]
    assert reasons[2] == "caption c.txt is a named pipe, not a file"


def test_what_is_no_file_is_named_and_never_opened(tmp_path: Path) -> None:
    """Opening a named pipe waits for ever; a link to itself is an error of the system."""
    make_folder(tmp_path, {"a.wav": 100})
    os.mkfifo(tmp_path / "pipe.wav")
    os.symlink("loop.wav", tmp_path / "loop.wav")
    os.symlink("loop", tmp_path / "loop")
    os.symlink("nowhere.wav", tmp_path / "broken.wav")
    os.symlink("/dev/zero", tmp_path / "zero.wav")
    dataset = audio_dir(tmp_path)
    assert [os.path.basename(p) for p in dataset.paths] == ["a.wav"]
    reasons = {os.path.basename(p.path): p.reason for p in dataset.problems}
    assert set(reasons) == {"pipe.wav", "loop.wav", "broken.wav", "zero.wav"}
    assert reasons["pipe.wav"] == "is a named pipe, not a file"
    assert "symbolic links" in reasons["loop.wav"]
    assert reasons["broken.wav"] == "is a link to a file that is not there"
    assert reasons["zero.wav"] == "is a device, not a file"


def test_files_that_nothing_reads_are_counted(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a.wav": 100})
    for name in ("a.txt", "b.WMA", "sub/c.wma", "noise"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert inspect_dataset(audio_dir(tmp_path))["ignored"] == {".wma": 2, "no suffix": 1}
    (tmp_path / "a.wav").unlink()
    with pytest.raises(DataError, match=r"no usable file found.*found instead: 2 \.wma"):
        audio_dir(tmp_path)


def test_names_in_file_lists_as_they_come(tmp_path: Path) -> None:
    """With a byte order mark, Windows line ends, names that look like comments or have spaces around them."""
    make_folder(tmp_path, {"a.wav": 100, "#1.wav": 100, " b.wav": 100, "c\u2028d.wav": 100, "e.wav": 100})
    text = "a.wav\r\n#1.wav\r\n# a comment.wav\r\n b.wav\r\nc\u2028d.wav\r\n  e.wav  \r\nf.wav"
    (tmp_path / "filelist.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    dataset = audio_dir(tmp_path)
    names = [os.path.basename(p) for p in dataset.paths]
    assert names == ["a.wav", "#1.wav", " b.wav", "c\u2028d.wav", "e.wav"]
    assert [os.path.basename(p.path) for p in dataset.problems] == ["f.wav"]


@pytest.mark.parametrize("strip_silence", [False, True])
def test_a_clip_opens_its_file_once(
    strip_silence: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And looks for its frames only when the file has changed."""
    make_folder(tmp_path, {"a.wav": 500})
    dataset = audio_dir(tmp_path, strip_silence=strip_silence)
    opened: list[str] = []
    searched: list[str] = []
    real_open, real_layout = reader.open_file, layout.read_layout
    monkeypatch.setattr(reader, "open_file", lambda name, part: opened.append(name) or real_open(name, part))
    monkeypatch.setattr(
        layout, "read_layout", lambda file, name: searched.append(name) or real_layout(file, name)
    )
    for draw in range(3):
        assert not isinstance(dataset[ItemKey(0, draw)], Rejected)
        assert len(opened) == draw + 1
    assert len(searched) == 1
    make_folder(tmp_path, {"a.wav": 700})
    clip = dataset[ItemKey(0, 0)]
    assert not isinstance(clip, Rejected)
    assert clip[1]["total_samples"] == 700
    assert len(searched) == 2


@pytest.mark.parametrize(
    "folder", ["/data/a", "/data/a/", "/data/a//", "/", "data", "./data", "../data", "."]
)
@pytest.mark.parametrize(
    "name",
    ["x.wav", "b/x.wav", "b/../x.wav", "./x.wav", "b//x.wav", "b/./x.wav", ".x.wav", "/else/x.wav"],
)
def test_names_below_a_folder_are_relative_paths(folder: str, name: str) -> None:
    prefix = folder.rstrip(os.sep) + os.sep
    for path in (os.path.join(folder, name), f"{prefix}{name}", f"{folder}x/{name}"):
        assert below(path, folder, prefix) == os.path.relpath(path, folder), path


@pytest.mark.parametrize("entry", [{}, {"keywords": ["b", "c"]}, {"filelist_path": "list.txt"}])
def test_sizes_are_those_of_the_files_and_cost_no_further_look(
    tmp_path: Path, entry: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "sounds", {"b.wav": 300, "a.wav": 200, "inner/c.wav": 100})
    (tmp_path / "list.txt").write_text("inner/c.wav\n a.wav \nb.wav\n")
    monkeypatch.chdir(tmp_path)
    made = audio_dir(folder, entry=entry)
    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", lambda *_, **__: pytest.fail("a file is looked at once more"))
        names, sizes = made.item_names(), list(made.item_sizes())
    assert sizes == [(folder / name).stat().st_size for name in names]
    assert len(set(sizes)) == len(names) == (2 if "keywords" in entry else 3)
