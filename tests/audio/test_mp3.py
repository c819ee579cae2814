"""mp3 files whose header is missing, wrong or one of several."""

from pathlib import Path

import pytest
import torch

from stable_audio.audio.errors import AudioError
from stable_audio.audio.frames import frame_size
from stable_audio.audio.io import read_audio, read_info
from tests.audio import rewritten
from tests.audio.sounds import chirp

RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", RATES)
def test_the_frames_are_counted(rate: int, channels: int, mode: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    data = rewritten.mp3(path, chirp(1.5, rate, channels), rate, mode)
    frames = rewritten.info_frames(data)
    path.write_bytes(rewritten.without_info(data))
    length = frames * (1152 if rate >= 32000 else 576)
    info = read_info(path)
    assert (info.frames, info.sample_rate, info.channels) == (length, rate, channels)
    whole, _ = read_audio(path)
    assert whole.shape == (channels, length)
    for start in (1, length // 2, length - 700):
        part, _ = read_audio(path, start, 500)
        assert (
            part - whole[:, start : start + 500]
        ).abs().max() < 1e-6  # rounding of what was decoded before


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    return rewritten.mp3(tmp_path / "whole.mp3", chirp(2.0), 44100)


def read(path: Path, data: bytes) -> torch.Tensor:
    path.write_bytes(data)
    audio, _ = read_audio(path)
    assert read_info(path).frames == audio.shape[1]
    return audio


def test_what_may_lie_around_the_frames(whole: bytes, tmp_path: Path) -> None:
    audio = read(tmp_path / "a.mp3", whole)
    tag = b"ID3\x03\x00\x00\x00\x00\x02\x00" + bytes(256)
    for data in (
        tag + whole,
        tag + bytes(5000) + whole,
        bytes(3000) + whole,
        tag + tag + whole,
        whole + b"TAG" + bytes(125),
        tag + whole + b"TAG" + bytes(125),
    ):
        assert torch.equal(read(tmp_path / "a.mp3", data), audio)
    bare = rewritten.without_info(whole)
    frames = read(tmp_path / "a.mp3", bare)
    assert torch.equal(read(tmp_path / "a.mp3", tag + bytes(777) + bare + b"TAG" + bytes(125)), frames)


@pytest.mark.parametrize("frames", [1, 10, 60, 100, 2**20, 2**32 - 1])
def test_a_wrong_number_of_frames(frames: int, whole: bytes, tmp_path: Path) -> None:
    audio = read(tmp_path / "a.mp3", whole)
    wrong = rewritten.with_number(whole, rewritten.info_tag(whole) + 8, frames)
    assert torch.equal(read(tmp_path / "a.mp3", wrong), audio)


def test_a_header_that_says_nothing(whole: bytes, tmp_path: Path) -> None:
    """Programs that cannot go back leave 0, and then their delay and padding are not final either."""
    unknown = rewritten.with_number(whole, rewritten.info_tag(whole) + 8, 0)
    bare = read(tmp_path / "b.mp3", rewritten.without_info(whole))
    assert torch.equal(read(tmp_path / "a.mp3", unknown), bare)


def test_a_header_in_the_second_frame(whole: bytes, tmp_path: Path) -> None:
    silent = whole[:4] + bytes(frame_size(whole) - 4)
    assert torch.equal(read(tmp_path / "a.mp3", silent + whole), read(tmp_path / "b.mp3", whole))


def test_joined_files(whole: bytes, tmp_path: Path) -> None:
    other = rewritten.mp3(tmp_path / "o.mp3", 0.5 * chirp(1.0), 44100, "VARIABLE")
    bare = rewritten.without_info(other)
    one, two, three = (read(tmp_path / "a.mp3", data) for data in (whole, other, bare))
    tag = b"ID3\x03\x00\x00\x00\x00\x02\x00" + bytes(256)
    assert torch.equal(read(tmp_path / "a.mp3", whole + whole), torch.cat([one, one], 1))
    joined = read(tmp_path / "a.mp3", whole + tag + other + bare)
    assert torch.equal(joined, torch.cat([one, two, three], 1))
    seam = one.shape[1]
    part, _ = read_audio(tmp_path / "a.mp3", seam - 50, 100)
    assert torch.equal(part, joined[:, seam - 50 : seam + 50])


def test_joined_files_that_do_not_fit(whole: bytes, tmp_path: Path) -> None:
    for name, other, reason in (
        ("rate", rewritten.mp3(tmp_path / "o.mp3", chirp(1.0, 22050), 22050), "22050 and 44100 Hz"),
        ("channels", rewritten.mp3(tmp_path / "o.mp3", chirp(1.0, 44100, 1), 44100), "1 and 2 channels"),
    ):
        path = tmp_path / f"{name}.mp3"
        path.write_bytes(whole + other)
        with pytest.raises(AudioError, match=reason):
            read_info(path)


def test_cut_off(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    for part in (0.1, 0.5, 0.95):
        path.write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(AudioError, match="cut off"):
            read_info(path)


def test_a_broadcast_that_begins_anywhere(whole: bytes, tmp_path: Path) -> None:
    """The first frames refer to bits that are not there; all frames count all the same."""
    path = tmp_path / "a.mp3"
    path.write_bytes(rewritten.without_info(whole)[3333:-100])
    info = read_info(path)
    assert info.frames % 1152 == 0
    assert read_audio(path)[0].shape == (2, info.frames)
