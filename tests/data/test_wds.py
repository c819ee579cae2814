from __future__ import annotations

import io
import itertools
import json
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stable_audio.audio.io import read_audio, read_info, save_audio
from stable_audio.data import ClipDataset, DataError, ItemKey, Rejected, create_dataset, create_loader
from stable_audio.data.inspection import inspect_dataset
from stable_audio.data.s3 import default_cache, s3_problems
from stable_audio.data.tars import index_tar
from tests.audio.sounds import chirp
from tests.data.folders import RATE, position, ramp


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def make_tar(path: Path, count: int, first: int = 0, frames: int = 3000) -> Path:
    """Samples 0000, 0001, ...: a ramp as wav, its caption as `text`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_audio(path.parent / "x.wav", ramp(frames), RATE)
    sound = (path.parent / "x.wav").read_bytes()
    (path.parent / "x.wav").unlink()
    with tarfile.open(path, "w") as archive:
        for number in range(first, first + count):
            add(archive, f"deep/folder/{number:04d}.wav", sound)
            add(archive, f"deep/folder/{number:04d}.json", json.dumps({"text": f"clip {number}"}).encode())
    return path


def dataset(path: Path, **keys: Any) -> ClipDataset:
    config = {"dataset_type": "wds", "datasets": [{"id": "t", "path": str(path)}], "phase_flip": 0.0, **keys}
    return create_dataset(config, sample_rate=RATE, sample_size=500, audio_channels=1, downsampling_ratio=10)


def test_crops_are_read_in_place(tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar", 2)
    make_tar(tmp_path / "sub" / "b.tar", 2, first=2)
    data = dataset(tmp_path)
    assert len(data) == 4
    for seed in range(5):
        audio, metadata = data[ItemKey(2, seed)]
        at = position(audio)
        assert torch.equal(audio, ramp(3000)[:, at : at + 500])
        assert metadata["prompt"] == "clip 2"
        assert metadata["timestamps"] == pytest.approx((at / 3000, (at + 500) / 3000))
        assert metadata["__key__"] == "deep/folder/0002"
        assert metadata["dataset"] == "t"
        assert metadata["path"] == f"{tmp_path}/sub/b.tar/deep/folder/0002.wav"


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "m4a"])
def test_every_codec_inside_a_tar(suffix: str, tmp_path: Path) -> None:
    if suffix == "m4a":
        pytest.importorskip("av")
    save_audio(tmp_path / f"x.{suffix}", chirp(3.0, 44100), 44100)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "first.txt", b"not this")
        archive.add(tmp_path / f"x.{suffix}", f"x.{suffix}")
    samples, problems = index_tar(str(tmp_path / "a.tar"))
    part = samples[1].parts[suffix]
    assert problems == []
    assert read_info(part).frames == 3 * 44100
    for start in (0, 30_000, 130_000):
        outside = read_audio(tmp_path / f"x.{suffix}", start, 2000)[0]
        assert torch.equal(read_audio(part, start, 2000)[0], outside)


def test_epochs_with_and_without_replacement(tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar", 6)
    config = {"dataset_type": "s3", "datasets": [{"id": "t", "path": str(tmp_path)}], "epoch_steps": 5}

    def loader(**keys: Any):
        return create_loader(
            {**config, **keys},
            sample_rate=RATE,
            sample_size=100,
            audio_channels=1,
            batch_size=4,
            endless=False,
        )

    assert len(list(loader())) == 5
    once = [m["__key__"] for b in loader(resampled_shards=False, drop_last=False) for m in b.metadata]
    assert len(once) == len(set(once)) == 6


def test_resume_in_mid_epoch(tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar", 6)
    config = {"dataset_type": "wds", "datasets": [{"id": "t", "path": str(tmp_path)}]}
    arguments: dict[str, Any] = {"sample_rate": RATE, "sample_size": 50, "audio_channels": 1, "batch_size": 2}
    loader = create_loader(config, num_workers=2, **arguments)
    stream = iter(loader)
    for _ in range(4):
        next(stream)
    state = loader.state_dict()
    expected = [next(stream).audio for _ in range(4)]
    resumed = create_loader(config, **arguments)
    resumed.load_state_dict(state)
    for audio, batch in zip(expected, itertools.islice(resumed, 4)):
        assert torch.equal(audio, batch.audio)


def test_latents_in_tars(tmp_path: Path) -> None:
    latents = np.arange(200, dtype=np.float32).reshape(2, 100)
    buffer = io.BytesIO()
    np.save(buffer, latents)
    content = {"prompt": "p", "seconds_start": 1, "seconds_total": 4, "padding_mask": [1] * 90 + [0] * 10}
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "0.npy", buffer.getvalue())
        add(archive, "0.json", json.dumps(content).encode())
    data = dataset(tmp_path, pre_encoded=True, latent_crop_length=30)
    found, metadata = data[ItemKey(0, 5)]
    start = metadata["latent_crop_start"]
    assert 0 <= start <= 60
    assert np.array_equal(found.numpy(), latents[:, start : start + 30])
    assert metadata["seconds_start"] == int(1 + start * 10 / RATE)
    assert metadata["prompt"] == "p"


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", 3)
    with tarfile.open(path, "a") as archive:
        add(archive, "alone.wav", b"x")
        add(archive, "bad.wav", b"no sound")
        add(archive, "bad.json", b"{}")
        add(archive, "worse.wav", b"no sound")
        add(archive, "worse.json", b"{")
    data = dataset(tmp_path)
    assert [p.path for p in data.problems] == [f"{path}/alone"]
    assert "not a sound file" in data[ItemKey(3, 0)].reason
    assert "is not JSON" in data[ItemKey(4, 0)].reason
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"clip 1")])
    cut = dataset(tmp_path)
    assert len(cut) == 1
    assert any("cut off" in p.reason for p in cut.problems)
    path.write_bytes(b"no tar" * 1000)
    with pytest.raises(DataError, match="no usable sample"):
        dataset(tmp_path)


def test_length_limits_and_custom_metadata(tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar", 1)
    rejected = dataset(tmp_path, min_length_sec=1.0)[ItemKey(0, 0)]
    assert isinstance(rejected, Rejected)
    assert "shorter than min_length_sec" in rejected.reason
    assert "longer" in dataset(tmp_path, max_length_sec=0.1)[ItemKey(0, 0)].reason
    (tmp_path / "m.py").write_text("def get_custom_metadata(info, audio): return {'n': audio.shape[-1]}")
    entry = {
        "id": "t",
        "path": str(tmp_path),
        "custom_metadata_module": str(tmp_path / "m.py"),
        "weight": 2.0,
    }
    data = dataset(tmp_path, datasets=[entry])
    assert data[ItemKey(0, 0)][1]["n"] == 500
    assert data.weights == [2.0]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"remove_silence": True}, "not offered"),
        ({"datasets": [{"id": "t"}]}, "either path or s3_path"),
        ({"datasets": [{"id": "t", "s3_path": "s3://../x"}]}, "s3://bucket/prefix is needed"),
        ({"datasets": [{"id": "t", "path": "/nowhere"}]}, "no such folder"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, keys: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        dataset(tmp_path, **keys)


def test_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program named `aws` that serves a folder: tars are copied once, and again when their size differs."""
    make_tar(tmp_path / "remote" / "data" / "a.tar", 2)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "aws"
    program.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> {tmp_path}/calls\n'
        'if [ "$2" = ls ]; then\n'
        f'  echo "2024-01-01 00:00:00 $(stat -c %s {tmp_path}/remote/data/a.tar) data/a.tar"\n'
        '  echo "2024-01-01 00:00:00 3 data/readme.txt"\n'
        "else\n"
        f'  cp "{tmp_path}/remote/${{3#s3://bucket/}}" "$4"\n'
        "fi\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    entry = {"id": "t", "s3_path": "s3://bucket/data", "profile": "me"}
    for _ in range(2):
        data = dataset(tmp_path, datasets=[entry], cache_dir=str(tmp_path / "cache"))
        assert data[ItemKey(1, 0)][1]["prompt"] == "clip 1"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [c.split()[1] for c in calls] == ["ls", "cp", "ls"]
    assert all(c.endswith("--profile me") for c in calls)
    program.write_text("#!/bin/sh\necho 'Unable to locate credentials' >&2\nexit 1\n")
    with pytest.raises(DataError, match="Unable to locate credentials"):
        dataset(tmp_path, datasets=[entry], cache_dir=str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    paths = ({"s3_path": "s3://bucket/x"}, {"s3_path": "s3:///x"}, {"id": "neither"})
    assert s3_problems({"datasets": paths, "remove_silence": True}) == [
        "$.datasets[2]: give either path or s3_path",
        "s3_path: s3://bucket/prefix is needed, found 's3:///x'",
        "$.remove_silence: not offered; use strip_silence for the end of files",
        "s3_path needs the `aws` command-line program, which is not installed",
    ]
    with pytest.raises(DataError, match="not installed"):
        dataset(tmp_path, datasets=[entry], cache_dir=str(tmp_path / "cache"))


def test_length_filters_hold_for_latents_too(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 50), dtype=np.float32))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in (("0", {"seconds_total": 9}), ("1", {})):
            add(archive, f"{name}.npy", buffer.getvalue())
            add(archive, f"{name}.json", json.dumps(content).encode())
    seconds = 50 * 10 / RATE
    data = dataset(tmp_path, pre_encoded=True, min_length_sec=seconds, max_length_sec=seconds)
    kept = [data[ItemKey(i, 0)] for i in range(2)]
    assert isinstance(kept[0], Rejected)
    assert "lasts 9.00 s, longer than max_length_sec" in kept[0].reason
    assert not isinstance(kept[1], Rejected)


@pytest.mark.parametrize("key", ["../out.tar", "/etc/out.tar", "a/../../../out.tar", "a//out.tar"])
def test_keys_that_lead_out_of_the_cache_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Also without cache_dir: the user's cache folder."""
    make_tar(tmp_path / "good.tar", 1)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "aws"
    program.write_text(
        f"#!/bin/sh\nif [ \"$2\" = ls ]; then\n  echo '2024-01-01 00:00:00 10240 {key}'\n"
        "  echo '2024-01-01 00:00:00 10240 good.tar'\n"
        f'else\n  echo "$4" >> {tmp_path}/written\n  cp {tmp_path}/good.tar "$4"\nfi\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = dataset(tmp_path, datasets=[{"id": "t", "s3_path": "s3://bucket/data"}])
    assert len(data) == 1
    assert [p.path for p in data.problems] == [f"s3://bucket/{key}"]
    assert default_cache() == str(tmp_path / "cache" / "stable_audio" / "tars")
    written = (tmp_path / "written").read_text().splitlines()
    assert len(written) == 1
    assert written[0].startswith(f"{default_cache()}/bucket/")


def test_a_damaged_header_loses_one_member_only(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", 4)
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    content = bytearray(path.read_bytes())
    content[members[2].offset : members[2].offset + 100] = b"\xff" * 100
    path.write_bytes(content)
    samples, problems = index_tar(str(path))
    assert [os.path.basename(s.key) for s in samples if "wav" in s.parts] == ["0000", "0002", "0003"]
    (problem,) = problems
    start, stop = members[2].offset, members[3].offset
    assert problem.reason == (
        f"damaged: no header can be read from byte {start} to {stop}; what was there is lost"
    )
    reasons = inspect_dataset(dataset(tmp_path))["rejected"]
    assert any(reason.startswith("needs a .json and one of") for reason in reasons)
    assert problem.reason in reasons


def test_rubbish_behind_the_end_is_told(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", 1)
    path.write_bytes(path.read_bytes() + b"x" * 1000)
    samples, (problem,) = index_tar(str(path))
    assert len(samples) == 1
    assert "no header can be read" in problem.reason


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_headers_for_all_are_no_damage(tmp_path: Path, form: int) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=form, pax_headers={"comment": "all"}) as archive:
        for number in range(2):
            add(archive, f"{'ü' * 120}/{number}.json", b"{}")
    samples, problems = index_tar(str(tmp_path / "a.tar"))
    assert [s.key for s in samples] == [f"{'ü' * 120}/{n}" for n in range(2)]
    assert not problems


def test_joined_tars_and_names_that_come_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = make_tar(tmp_path / "one" / "a.tar", 2), make_tar(tmp_path / "two" / "b.tar", 2)
    (tmp_path / "joined").mkdir()
    (tmp_path / "joined" / "c.tar").write_bytes(first.read_bytes() + second.read_bytes())
    data = dataset(tmp_path / "joined")
    assert len(data) == 4
    assert not data.problems
    keys = [os.path.basename(data[ItemKey(i, 0)][1]["__key__"]) for i in range(4)]
    assert keys == ["0000", "0001", "0000#2", "0001#2"]
    assert len({data.sound(i)[0] for i in range(4)}) == 4
    assert "2 samples have the name of an earlier one" in caplog.text


def test_the_report_looks_inside(tmp_path: Path) -> None:
    """True rates, channels and lengths, not those of the model; damage in the middle of a member."""
    path = make_tar(tmp_path / "a.tar", 2, frames=3000)
    save_audio(tmp_path / "stereo.flac", chirp(2.0, 16000, 2), 16000)
    sound = (tmp_path / "stereo.flac").read_bytes()
    with tarfile.open(path, "a") as archive:
        add(archive, "s.flac", sound)
        add(archive, "s.json", b"{}")
        add(archive, "t.flac", sound[: len(sound) // 2] + b"\0" * (len(sound) - len(sound) // 2))
        add(archive, "t.json", b"{}")
        add(archive, "u.wav", b"x")
        add(archive, "u.json", b"[" * 100_000)
    found = inspect_dataset(dataset(path))
    assert found["sample_rates"] == {"8000": 2, "16000": 1}
    assert found["channels"] == {"1": 2, "2": 1}
    assert found["seconds"] == {"shortest": 3000 / RATE, "mean": pytest.approx(2.75 / 3), "longest": 2.0}
    assert found["captions"] == pytest.approx(2 / 3)
    assert {os.path.basename(p) for paths in found["rejected"].values() for p in paths} == {"t.flac", "u.wav"}
    rejected = dataset(path)[ItemKey(4, 0)]
    assert isinstance(rejected, Rejected)
    assert "nests deeper" in rejected.reason


def test_a_tar_that_ends_within_its_first_member(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", 1)
    path.write_bytes(path.read_bytes()[:2000])
    samples, problems = index_tar(str(path))
    assert samples == []
    assert [p.reason for p in problems] == ["cut off: the tar ends within it"]


def test_sizes_are_the_bytes_of_samples(tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar", 1)
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        for name, size in (("0.wav", 5), ("0.json", 7), ("1.wav", 2), ("1.json", 3)):
            add(archive, name, bytes(size))
    first, *others = dataset(tmp_path).item_sizes()
    assert first > 3000 * 2
    assert others == [12, 5]


def test_an_index_asks_for_the_size_of_a_tar_and_not_for_each_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tar(tmp_path / "a.tar", 50, frames=10)
    asked: list[Any] = []
    size_of = os.path.getsize
    monkeypatch.setattr(os.path, "getsize", lambda path: asked.append(path) or size_of(path))
    samples, problems = index_tar(str(tmp_path / "a.tar"))
    assert (len(samples), problems) == (50, [])
    assert len(asked) <= 2
