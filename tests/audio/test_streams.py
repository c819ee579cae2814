"""flac, wav and Ogg files as pipes, joining and accidents leave them."""

import os
import struct
from pathlib import Path

import pytest
import soundfile
import torch

from stable_audio.audio import flac
from stable_audio.audio.errors import AudioError
from stable_audio.audio.io import read_audio, read_info, save_audio
from tests.audio import rewritten
from tests.audio.sounds import chirp

RATE = 16000


def written(folder: Path, suffix: str, seconds: float = 1.0, rate: int = RATE) -> tuple[Path, bytes]:
    path = folder / f"whole.{suffix}"
    save_audio(path, chirp(seconds, rate), rate)
    return path, path.read_bytes()


def read(path: Path, data: bytes) -> torch.Tensor:
    path.write_bytes(data)
    audio, _ = read_audio(path)
    assert read_info(path).frames == audio.shape[1]
    return audio


@pytest.mark.parametrize("total", [0, 1, 5000, RATE - 1])
def test_a_flac_that_declares_too_little_or_nothing(total: int, tmp_path: Path) -> None:
    path, data = written(tmp_path, "flac")
    audio, _ = read_audio(path)
    assert torch.equal(read(path, rewritten.flac_total(data, total)), audio)
    assert read_info(path).seconds == 1.0
    assert torch.equal(read_audio(path, 9999, 500)[0], audio[:, 9999:10499])


@pytest.mark.parametrize("seconds", [1.0, 3 * 4096 / RATE])
@pytest.mark.parametrize("total", [RATE + 1, 2**30, 2**36 - 1])
def test_a_flac_that_declares_too_much(total: int, seconds: float, tmp_path: Path) -> None:
    """A short last frame ends a stream; so does the frame with which the checksum of all samples agrees."""
    path, data = written(tmp_path, "flac", seconds)
    audio, _ = read_audio(path)
    assert torch.equal(read(path, rewritten.flac_total(data, total)), audio)


@pytest.mark.parametrize("bits", [8, 16, 24])
def test_the_checksum_of_all_samples(bits: int, tmp_path: Path) -> None:
    path = tmp_path / "whole.flac"
    save_audio(path, chirp(4096 / RATE, RATE), RATE, subtype="PCM_S8" if bits == 8 else f"PCM_{bits}")
    data = path.read_bytes()
    too_much = rewritten.flac_total(data, 5000)
    assert read(path, too_much).shape == (2, 4096)
    for unknown in (
        too_much[:26] + bytes(16) + too_much[42:],
        too_much[:26] + bytes(15) + b"x" + too_much[42:],
    ):
        path.write_bytes(unknown)
        with pytest.raises(AudioError, match="cut off: its header promises 5000 samples, 4096 are there"):
            read_info(path)


@pytest.mark.parametrize("searched", [1 << 20, 1])
def test_joined_flacs(searched: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their lengths, and whether the file is searched or probed."""
    monkeypatch.setattr(flac, "_SEARCHED", max(searched, 64))
    _, long = written(tmp_path, "flac", 4.0)
    path, short = written(tmp_path, "flac", 0.7)
    lengths = {long: 4 * RATE, short: round(0.7 * RATE), rewritten.flac_total(short, 0): round(0.7 * RATE)}
    streamed = rewritten.flac_total(short, 0)
    for parts in (
        (long, short),
        (short, long),
        (long, long),
        (long,) * 3,
        (streamed, long),
        (long, streamed),
    ):
        audio = read(path, b"".join(parts))
        assert audio.shape[1] == sum(lengths[part] for part in parts)
        last = read(path, parts[-1])
        assert torch.equal(audio[:, -last.shape[1] :], last)
    path.write_bytes(long + short[: len(short) // 2])
    with pytest.raises(AudioError, match="cut off"):
        read_info(path)


def test_tags_around_a_flac(tmp_path: Path) -> None:
    path, data = written(tmp_path, "flac")
    audio, _ = read_audio(path)
    tag = b"ID3\x03\x00\x00\x00\x00\x02\x00" + bytes(256)
    for total in (RATE, 0):
        changed = rewritten.flac_total(data, total)
        assert torch.equal(read(path, tag + changed + b"TAG" + bytes(125)), audio)


@pytest.mark.parametrize("declared", [RATE, 0])
def test_a_cut_flac(declared: int, tmp_path: Path) -> None:
    path, data = written(tmp_path, "flac")
    for length in (40, len(data) // 2, len(data) - 5):
        path.write_bytes(rewritten.flac_total(data, declared)[:length])
        with pytest.raises(AudioError, match=r"cut off|lost sync"):
            read_audio(path)


@pytest.mark.parametrize(
    "size", [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0x80000000 - 36, 0xFFFFFFFF, 0xFFFFFFFF - 36, 0xFFFFF000]
)
def test_a_wav_written_to_a_pipe(size: int, tmp_path: Path) -> None:
    path, data = written(tmp_path, "wav")
    audio, _ = read_audio(path)
    assert torch.equal(read(path, rewritten.wav_size(data, size)), audio)


def test_a_wide_wav_written_to_a_pipe(tmp_path: Path) -> None:
    """RF64 has its size in a chunk of its own."""
    path, data = written(tmp_path, "wav")
    audio, _ = read_audio(path)
    at = data.index(b"data")
    for size in (0, len(data) - at - 8):
        wide = struct.pack("<4sI4s4sIQQQI", b"RF64", 2**32 - 1, b"WAVE", b"ds64", 28, 0, size, 0, 0)
        changed = wide + data[12 : at + 4] + b"\xff" * 4 + data[at + 8 :]
        assert torch.equal(read(path, changed), audio)


def test_a_wav_of_another_length(tmp_path: Path) -> None:
    path, data = written(tmp_path, "wav")
    sound = 4 * RATE
    for size, reason in ((sound + 2, "cut off"), (10**9, "cut off"), (sound // 2, "32000 more follow")):
        path.write_bytes(rewritten.wav_size(data, size))
        with pytest.raises(AudioError, match=reason):
            read_info(path)
    audio = read(path, data)
    chunk = b"LIST" + (5000).to_bytes(4, "little") + bytes(5000)
    assert torch.equal(read(path, data + chunk), audio)
    assert torch.equal(read(path, data + bytes(100)), audio)
    path.write_bytes(rewritten.wav_size(data, 0)[: data.index(b"data") + 8] + chunk)
    with pytest.raises(AudioError, match="no sound"):
        read_info(path)


def test_joined_wavs(tmp_path: Path) -> None:
    _, long = written(tmp_path, "wav", 2.0)
    path, short = written(tmp_path, "wav", 0.7)
    chunk = b"LIST" + (26).to_bytes(4, "little") + bytes(26)
    one, two = read(path, short), read(path, long)
    unknown = rewritten.wav_size(long, 0xFFFFFFFF)
    for content in (short + long, short + chunk + long + chunk, short + unknown):
        assert torch.equal(read(path, content), torch.cat([one, two], 1))
    assert torch.equal(read(path, short * 3), torch.cat([one] * 3, 1))
    path.write_bytes(short + long[:-100])
    with pytest.raises(AudioError, match="cut off"):
        read_info(path)


@pytest.mark.parametrize("rate", [1, 999, 2_000_000])
def test_a_rate_that_is_a_mistake(rate: int, tmp_path: Path) -> None:
    path, data = written(tmp_path, "wav")
    path.write_bytes(rewritten.with_number(data, 24, rate, 4, "little"))
    with pytest.raises(AudioError, match=f"sample rate of {rate} Hz"):
        read_info(path)


OGG = ("ogg", "opus")


@pytest.mark.parametrize("suffix", OGG)
def test_a_cut_ogg(suffix: str, tmp_path: Path) -> None:
    path, data = written(tmp_path, suffix, 8.0)
    pages = rewritten.ogg_pages(data)
    assert len(pages) > 4
    whole_pages = [len(b"".join(pages[:n])) for n in range(2, len(pages))]
    for length in (*whole_pages, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(AudioError, match="cut off"):
            read_info(path)
    path.write_bytes(b"".join(pages[:3] + pages[4:]))
    with pytest.raises(AudioError, match="1 pages are missing"):
        read_info(path)


@pytest.mark.parametrize("suffix", OGG)
def test_a_chained_ogg(suffix: str, tmp_path: Path) -> None:
    path, data = written(tmp_path, suffix)
    audio, _ = read_audio(path)
    other = 0.5 * chirp(0.7, RATE)
    save_audio(tmp_path / f"other.{suffix}", other, RATE)
    behind = read_audio(tmp_path / f"other.{suffix}")[0]
    chained = read(path, data + (tmp_path / f"other.{suffix}").read_bytes())
    assert torch.equal(chained, torch.cat([audio, behind], 1))
    part, _ = read_audio(path, audio.shape[1] - 50, 100)
    assert (part - chained[:, audio.shape[1] - 50 :][:, :100]).abs().max() < 1e-4
    assert torch.equal(read(path, data + data), torch.cat([audio, audio], 1))
    path.write_bytes(data + data[: len(data) // 2])
    with pytest.raises(AudioError, match="cut off"):
        read_info(path)


def test_pages_may_be_counted_from_any_number(tmp_path: Path) -> None:
    path, data = written(tmp_path, "ogg", 8.0)
    audio, _ = read_audio(path)
    pages = [rewritten.ogg_number(page, 7 + n) for n, page in enumerate(rewritten.ogg_pages(data))]
    assert torch.equal(read(path, b"".join(pages)), audio)


def test_chained_streams_that_do_not_fit(tmp_path: Path) -> None:
    path, data = written(tmp_path, "ogg")
    _, other = written(tmp_path, "ogg", rate=22050)
    path.write_bytes(data + other)
    with pytest.raises(AudioError, match="of 16000 and 22050 Hz; split it"):
        read_info(path)


@pytest.mark.parametrize("suffix", OGG)
@pytest.mark.parametrize("granule", [2**40, 2**62, 1])
def test_an_ogg_that_declares_another_length(suffix: str, granule: int, tmp_path: Path) -> None:
    path, data = written(tmp_path, suffix, 8.0)
    pages = rewritten.ogg_pages(data)
    path.write_bytes(b"".join(pages[:-1]) + rewritten.ogg_granule(pages[-1], granule))
    with pytest.raises(AudioError, match=f"ends at sample {granule}, which is impossible"):
        read_info(path)


@pytest.mark.parametrize(("rate", "frames"), [(8000, 8000), (22050, 8000), (44100, 8064), (44100, 500)])
def test_a_short_ogg_has_its_length_in_every_decoder(rate: int, frames: int, tmp_path: Path) -> None:
    """FFmpeg needs a page before the last one to cut the end off."""
    av = pytest.importorskip("av")
    path = tmp_path / "a.ogg"
    save_audio(path, chirp(frames / rate, rate), rate)
    assert read_info(path).frames == frames
    assert read_audio(path)[0].shape == (2, frames)
    with av.open(str(path)) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) == frames


@pytest.mark.parametrize("channels", [3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "opus"])
def test_channels_keep_their_order(suffix: str, channels: int, tmp_path: Path) -> None:
    audio = torch.cat([0.5 * chirp(0.5, 48000, 1) / (n + 1) for n in range(channels)])
    path = tmp_path / f"a.{suffix}"
    save_audio(path, audio, 48000)
    read, _ = read_audio(path)
    levels = read.square().mean(1).sqrt()
    if channels > 5:  # of the fourth, these codecs keep the low frequencies only
        levels = torch.cat([levels[:3], levels[4:]])
    assert (levels[:-1] > 1.02 * levels[1:]).all(), levels


@pytest.mark.parametrize("suffix", ["ogg", "opus"])
def test_other_programs_see_the_same_channels(suffix: str, tmp_path: Path) -> None:
    """In the file, the centre is second and the low frequencies are last."""
    av = pytest.importorskip("av")
    tones = [300.0, 500.0, 700.0, 60.0, 1100.0, 1300.0]
    t = torch.arange(48000) / 48000
    save_audio(
        tmp_path / f"a.{suffix}", torch.stack([0.3 * torch.sin(6.2831853 * f * t) for f in tones]), 48000
    )
    with av.open(str(tmp_path / f"a.{suffix}")) as container:
        frames = [torch.from_numpy(frame.to_ndarray()) for frame in container.decode(audio=0)]
        assert container.streams.audio[0].codec_context.layout.name == "5.1"
    heard = torch.cat(frames, 1)[:, :48000]
    assert torch.fft.rfft(heard).abs().argmax(1).tolist() == tones


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.wav")
    for path in (tmp_path / "a.wav", Path("/dev/zero")):
        with pytest.raises(AudioError, match="no regular file"):
            read_info(path)


def encoded(path: Path, form: str, codec: str, audio: torch.Tensor) -> bytes:
    """A mono file by FFmpeg."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.layout = "mono"
        layout = {"flac": "s16", "aac": "fltp"}[codec]
        samples = (audio * 32767).short() if codec == "flac" else audio
        frame = av.AudioFrame.from_ndarray(samples.numpy(), format=layout, layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return path.read_bytes()


def test_flac_in_ogg(tmp_path: Path) -> None:
    path, audio = tmp_path / "a.oga", chirp(4.0, RATE, 1)
    data = encoded(path, "ogg", "flac", audio)
    whole = read(path, data)
    assert whole.shape == audio.shape
    assert (whole - audio).abs().max() < 2 / 32768
    for start in range(0, 4 * RATE, 4500):
        assert torch.equal(read_audio(path, start, 3000)[0], whole[:, start : start + 3000])
    for changed, reason in ((data[: len(data) // 2], "cut off"), (data * 2, "2 FLAC streams were joined")):
        path.write_bytes(changed)
        with pytest.raises(AudioError, match=reason):
            read_info(path)


def test_aac_without_a_container(tmp_path: Path) -> None:
    path, audio = tmp_path / "a.m4a", chirp(2.0, RATE, 1)
    whole = read(path, encoded(path, "adts", "aac", audio))
    assert 0 <= whole.shape[1] - audio.shape[1] <= 3 * 1024
    assert torch.equal(read_audio(path, 20000, 3000)[0], whole[:, 20000:23000])


def test_a_coding_that_cannot_be_read_from_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, chirp(1.0, 8000, 1).numpy().T, 8000, subtype="GSM610")
    with pytest.raises(AudioError, match="coding GSM610 cannot be read from the middle; convert it"):
        read_info(path)
