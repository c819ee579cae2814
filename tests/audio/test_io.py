import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from stable_audio.audio import atomic
from stable_audio.audio.errors import AudioError
from stable_audio.audio.io import read_audio, read_info, save_audio
from stable_audio.audio.silence import sound_end
from tests.audio.sounds import chirp

RATE = 48000
# Suffix -> (largest error of a written and read chirp, largest difference of a crop from the whole file).
CODECS = {
    "wav": (1.6e-5, 0.0),
    "flac": (1.6e-5, 0.0),
    "aiff": (1.6e-5, 0.0),
    "mp3": (0.08, 1e-6),
    "ogg": (0.05, 1e-6),
    "opus": (0.08, 1e-4),
    "m4a": (0.1, 5e-3),
}


@pytest.fixture(scope="module")
def whole() -> torch.Tensor:
    return chirp(8.0, RATE)


@pytest.mark.parametrize("suffix", CODECS)
def test_a_crop_is_a_slice_of_the_whole_file(suffix: str, whole: torch.Tensor, tmp_path: Path) -> None:
    written_error, crop_error = CODECS[suffix]
    if suffix == "m4a":
        pytest.importorskip("av")
    path = tmp_path / f"sound.{suffix}"
    save_audio(path, whole, RATE)
    info = read_info(path)
    assert (info.sample_rate, info.channels, info.frames) == (RATE, 2, whole.shape[1])
    full, rate = read_audio(path)
    assert rate == RATE
    inner = slice(2000, -2000)  # lossy codecs smear the edges
    assert (full - whole)[:, inner].abs().max() < written_error
    last = whole.shape[1]
    for start in (0, 1, 9999, 123457, last - 9000, last - 4321, last - 1000, last - 1):
        crop, _ = read_audio(path, start, 3000)
        assert crop.shape[1] == min(3000, last - start)
        assert (crop - full[:, start : start + 3000]).abs().max() <= crop_error, start


@pytest.mark.parametrize(
    ("subtype", "error"), [("PCM_U8", 8e-3), ("PCM_24", 2e-7), ("FLOAT", 0.0), ("DOUBLE", 0.0)]
)
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_sample_formats(subtype: str, error: float, channels: int, tmp_path: Path) -> None:
    audio = chirp(0.1, 16000, channels)
    save_audio(tmp_path / "a.wav", audio, 16000, subtype=subtype)
    read, _ = read_audio(tmp_path / "a.wav")
    assert read.shape == audio.shape
    assert (read - audio).abs().max() <= error


def test_loudness_is_kept_and_clipping_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    quiet = save_audio(tmp_path / "quiet.wav", 0.1 * chirp(0.1), 44100)
    assert not quiet.clipped
    assert read_audio(tmp_path / "quiet.wav")[0].abs().max() == pytest.approx(0.05, abs=1e-4)
    loud = save_audio(tmp_path / "loud.wav", 4 * chirp(0.1), 44100)
    assert loud.clipped
    assert loud.peak == pytest.approx(2.0, abs=0.01)
    assert "clipped" in caplog.text
    assert read_audio(tmp_path / "loud.wav")[0].abs().max() <= 1.0
    exact = save_audio(tmp_path / "float.wav", 4 * chirp(0.1), 44100, subtype="FLOAT")
    assert not exact.clipped
    assert read_audio(tmp_path / "float.wav")[0].abs().max() == pytest.approx(2.0, abs=0.01)


def test_a_wrong_suffix_does_no_harm(tmp_path: Path) -> None:
    save_audio(tmp_path / "a.flac", chirp(0.1), 44100)
    os.rename(tmp_path / "a.flac", tmp_path / "a.wav")
    assert read_audio(tmp_path / "a.wav")[0].shape == (2, 4410)


def test_names_in_other_alphabets(tmp_path: Path) -> None:
    path = tmp_path / "звук 音 é 🎵.wav"
    save_audio(path, chirp(0.1), 44100)
    assert read_audio(path)[0].shape == (2, 4410)


@pytest.mark.parametrize("suffix", ["wav", "aiff", "flac", "mp3", "m4a"])
def test_cut_off_files_are_noticed(suffix: str, tmp_path: Path) -> None:
    if suffix == "m4a":
        pytest.importorskip("av")
    path = tmp_path / f"a.{suffix}"
    save_audio(path, chirp(3.0), 44100)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(AudioError) as caught:
        read_audio(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "0 bytes"), (b"just words, no sound " * 50, "not a sound file"), (b"RIFF", "not a sound file")],
)
def test_what_is_not_sound(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=reason):
        read_info(path)


def test_a_header_without_sound(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((0, 2)), 44100)
    with pytest.raises(AudioError, match="holds no sound"):
        read_info(tmp_path / "a.wav")


def test_a_stream_of_unknown_length_is_read(tmp_path: Path) -> None:
    """Programs that write wav to a pipe leave 0xFFFFFFFF as the length."""
    path = tmp_path / "a.wav"
    save_audio(path, chirp(0.1), 44100)
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff" * 4
    path.write_bytes(data)
    assert read_audio(path)[0].shape == (2, 4410)


def test_values_that_are_not_numbers(tmp_path: Path) -> None:
    bad = chirp(0.1)
    bad[0, 100] = float("nan")
    with pytest.raises(AudioError, match="not numbers"):
        save_audio(tmp_path / "a.wav", bad, 44100)
    soundfile.write(tmp_path / "b.wav", bad.numpy().T, 44100, subtype="FLOAT")
    with pytest.raises(AudioError, match="not numbers"):
        read_audio(tmp_path / "b.wav")


@pytest.mark.parametrize("value", [1e30, -32768.0, 101.0])
def test_values_far_beyond_full_scale_are_damage(value: float, tmp_path: Path) -> None:
    sound, path = chirp(0.1), tmp_path / "a.wav"
    sound[0, 100] = value
    soundfile.write(path, sound.numpy().T, 44100, subtype="FLOAT")
    with pytest.raises(AudioError, match=rf"a\.wav: damaged: .* up to {abs(value):.3g}".replace("+", r"\+")):
        read_audio(path)
    assert read_audio(path, 200)[0].abs().max() <= 1  # other parts can be read, as with NaN


def test_values_above_full_scale_are_sound(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, 40 * chirp(0.1).numpy().T, 44100, subtype="FLOAT")
    assert read_audio(path)[0].abs().max() > 10


def test_missing_and_forbidden_files(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="No such file"):
        read_info(tmp_path / "nothing.wav")
    with pytest.raises(AudioError, match="directory"):
        read_info(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_denied(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    save_audio(path, chirp(0.1), 44100)
    path.chmod(0)
    with pytest.raises(AudioError, match="Permission denied"):
        read_info(path)


def test_start_outside_the_file(tmp_path: Path) -> None:
    save_audio(tmp_path / "a.wav", chirp(0.1), 44100)
    with pytest.raises(ValueError, match="outside"):
        read_audio(tmp_path / "a.wav", 5000, 10)


def test_formats_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="OPUS at 44100"):
        save_audio(tmp_path / "a.opus", chirp(0.1), 44100)
    with pytest.raises(AudioError, match="cannot be written"):
        save_audio(tmp_path / "a.xyz", chirp(0.1), 44100)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.wav"
    save_audio(path, chirp(0.1), 44100)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_audio(path, 0.5 * chirp(0.1), 44100)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_disk_that_fills_up_while_writing(suffix: str, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(AudioError, match="is it full"):
            save_audio(tmp_path / f"a.{suffix}", 0.1 * torch.randn(2, 480_000), 48000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_kill_during_saving_leaves_no_part(tmp_path: Path) -> None:
    """The name appears only when the file is whole."""
    program = (
        "import sys, torch\n"
        "from stable_audio.audio.io import save_audio\n"
        "audio = torch.zeros(2, 48000 * 600)\n"
        "print('go', flush=True)\n"
        "while True: save_audio(sys.argv[1], audio, 48000)\n"
    )
    path = tmp_path / "a.wav"
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not path.exists() or read_info(path).frames == 48000 * 600


def test_sound_end(tmp_path: Path) -> None:
    audio = torch.cat([chirp(2.0), torch.zeros(2, 3 * 44100)], dim=1)
    save_audio(tmp_path / "a.wav", audio, 44100)
    end = sound_end(read_info(tmp_path / "a.wav"))
    assert 2 * 44100 - 50 < end <= 2 * 44100
    save_audio(tmp_path / "short.wav", audio[:, : 2 * 44100 + 1000], 44100)
    assert sound_end(read_info(tmp_path / "short.wav")) == 2 * 44100 + 1000
    save_audio(tmp_path / "silent.wav", torch.zeros(1, 100_000), 44100)
    assert sound_end(read_info(tmp_path / "silent.wav")) == 100_000


def test_mp3_of_low_variable_bit_rate(tmp_path: Path) -> None:
    """Frames that borrow bits from earlier ones need these to be decoded first."""
    path = tmp_path / "a.mp3"
    soundfile.write(path, chirp(20.0, RATE).numpy().T, RATE, bitrate_mode="VARIABLE", compression_level=0.1)
    full, _ = read_audio(path)
    for start in range(50_000, 900_000, 33_333):
        assert torch.equal(read_audio(path, start, 500)[0], full[:, start : start + 500])


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_mp3_without_its_header(mode: str, tmp_path: Path) -> None:
    """The frames are counted; a guess from the first one's size would be wrong by a factor."""
    path = tmp_path / "a.mp3"
    soundfile.write(path, chirp(3.0, RATE).numpy().T, RATE, bitrate_mode=mode, compression_level=0.1)
    data = path.read_bytes()
    tag = max(data.find(b"Xing"), data.find(b"Info"))
    frames = int.from_bytes(data[tag + 8 : tag + 12], "big")
    path.write_bytes(data[data.index(data[:2], tag) :])
    assert read_info(path).frames == 1152 * frames
    full, _ = read_audio(path)
    assert full.shape == (2, 1152 * frames)
    for start in (1, 50_000, 99_999, 1152 * frames - 500):
        assert (read_audio(path, start, 500)[0] - full[:, start : start + 500]).abs().max() < 1e-6


@pytest.mark.parametrize("suffix", ["ogg", "opus", "mp3", "flac"])
def test_minutes_of_sound_can_be_written(suffix: str, tmp_path: Path) -> None:
    """In one call, the Vorbis encoder crashes the process."""
    save_audio(tmp_path / f"a.{suffix}", torch.zeros(1, 16000 * 400), 16000)
    assert read_info(tmp_path / f"a.{suffix}").seconds == pytest.approx(400, abs=0.1)
