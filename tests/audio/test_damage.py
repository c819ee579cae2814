"""Whatever the bytes: a sound file is read, or refused by name; and memory stays within a bound."""

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stable_audio.audio import reader
from stable_audio.audio.errors import AudioError
from stable_audio.audio.io import read_audio, read_info, save_audio
from stable_audio.audio.slices import FileSlice
from stable_audio.audio.tags import read_tags
from tests.audio import rewritten
from tests.audio.sounds import chirp

RATE = 16000
MEMORY = 64 << 20
"""Bytes; the whole files hold less than half a second."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    contents = {}
    for suffix in ("wav", "flac", "mp3", "ogg", "opus", "aiff", "m4a"):
        if suffix == "m4a":
            pytest.importorskip("av")
        save_audio(folder / f"a.{suffix}", chirp(0.4, RATE), RATE)
        contents[suffix] = (folder / f"a.{suffix}").read_bytes()
    contents["bare.mp3"] = rewritten.without_info(contents["mp3"])
    contents["streamed.flac"] = rewritten.flac_total(contents["flac"], 0)
    contents["streamed.wav"] = rewritten.wav_size(contents["wav"], 0xFFFFFFFF)
    contents["chained.ogg"] = contents["ogg"] * 2
    return contents


KINDS = (
    *("wav", "flac", "mp3", "ogg", "opus", "aiff", "m4a"),
    *("bare.mp3", "streamed.flac", "streamed.wav", "chained.ogg"),
)


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    edits=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), max_size=4),
    early=st.booleans(),
    length=st.none() | st.floats(0, 1),
)
def test_damaged_bytes(
    files: dict[str, bytes],
    tmp_path: Path,
    kind: str,
    edits: list[tuple[float, bytes]],
    early: bool,
    length: float | None,
) -> None:
    content = bytearray(files[kind])
    for place, edit in edits:
        at = int(place * (min(300, len(content)) if early else len(content)))
        content[at : at + len(edit)] = edit
    path = tmp_path / f"a.{kind}"
    path.write_bytes(content if length is None else content[: int(length * len(content))])
    tracemalloc.start()
    audio, reason = None, ""
    try:
        audio, _ = read_audio(path)
    except AudioError as error:
        reason = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MEMORY
    assert reason.startswith(f"{path}: ") if audio is None else audio.shape[1] == read_info(path).frames


@pytest.mark.parametrize("error", [MemoryError(), AttributeError("no such thing"), OSError(5, "I/O error")])
def test_whatever_fails_names_the_file(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.wav"
    save_audio(path, chirp(0.1, RATE), RATE)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(reader, "read_layout", fail)
    with pytest.raises(AudioError, match=r"a\.wav: ") as caught:
        read_info(path)
    assert caught.value.__cause__ is error


def test_more_than_can_be_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_audio(tmp_path / "a.wav", chirp(0.1, RATE), RATE)
    monkeypatch.setattr(reader, "LARGEST_READ", 2 * 1000)
    assert read_audio(tmp_path / "a.wav", 10, 1000)[0].shape == (2, 1000)
    with pytest.raises(AudioError, match="too many to be read at once"):
        read_audio(tmp_path / "a.wav", 10, 1001)


def test_blocks_join_without_a_seam(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in KINDS:
        path = tmp_path / f"a.{kind}"
        path.write_bytes(files[kind])
        whole, _ = read_audio(path)
        monkeypatch.setattr(reader, "_AT_ONCE", 2 * 1000)
        assert (read_audio(path)[0] - whole).abs().max() < 1e-4, kind
        monkeypatch.undo()


def test_in_a_larger_file(files: dict[str, bytes], tmp_path: Path) -> None:
    for kind in KINDS:
        (tmp_path / f"a.{kind}").write_bytes(files[kind])
        (tmp_path / "all").write_bytes(bytes(1000) + files[kind] + bytes(1000))
        part = FileSlice(str(tmp_path / "all"), 1000, len(files[kind]), f"all/a.{kind}")
        audio, _ = read_audio(part)
        assert audio.equal(read_audio(tmp_path / f"a.{kind}")[0]), kind


def test_tags_that_are_not_utf8(files: dict[str, bytes], tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "a.m4a"
    with av.open(str(path), "w", format="ipod") as container:
        container.metadata["title"] = "XXXXXXXX"
        stream = container.add_stream("aac", rate=RATE)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(chirp(0.2, RATE, 1).numpy(), format="fltp", layout="mono")
        frame.sample_rate = RATE
        container.mux([*stream.encode(frame), *stream.encode(None)])
    content = path.read_bytes()
    assert b"XXXXXXXX" in content
    before, _ = read_audio(path)
    path.write_bytes(content.replace(b"XXXXXXXX", "Café für".encode("latin-1")))
    assert read_audio(path)[0].equal(before)
    assert read_tags(path)["title"] == "Caf fr"


def test_a_codec_that_nobody_knows(files: dict[str, bytes], tmp_path: Path) -> None:
    content = bytearray(files["m4a"].replace(b"mp4a", b"zzzz"))
    content[content.index(b"\x40\x15", content.index(b"esds"))] = 0xFE
    (tmp_path / "a.m4a").write_bytes(content)
    with pytest.raises(AudioError, match="codec is unknown"):
        read_info(tmp_path / "a.m4a")


@pytest.mark.parametrize("box", ["mdhd", "stts"])
def test_an_m4a_that_declares_too_much(files: dict[str, bytes], box: str, tmp_path: Path) -> None:
    """FFmpeg believes the durations of single frames (stts) most of all."""
    content = files["m4a"]
    at = content.index(box.encode()) + {"mdhd": 20, "stts": 16}[box]
    (tmp_path / "a.m4a").write_bytes(rewritten.with_number(content, at, 2**29))
    (tmp_path / "whole.m4a").write_bytes(content)
    try:
        audio, _ = read_audio(tmp_path / "a.m4a")
    except AudioError:
        assert box == "stts"
    else:
        assert audio.equal(read_audio(tmp_path / "whole.m4a")[0])
