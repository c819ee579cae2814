"""Find the byte ranges of an mp3 file that decode to the exact number of samples, whatever its header says.

An Info (Xing) header is a frame without sound that says how many frames follow. Recorders and SoX write none;
streams have one that says 0; joined files have several. So the frames are counted, which takes some
milliseconds per song; their number is the length of a file without a header, and corrects a wrong header.
"""

from __future__ import annotations

from typing import BinaryIO, NamedTuple

from stable_audio.audio.frames import Frames, exact_size, frame_size, kind_of, samples_per_frame, walk
from stable_audio.audio.splice import Span, Stream

PREROLL = 16 * 1152
"""Samples to decode before the requested ones: frames borrow bits from about ten preceding frames."""

_TAGS = (b"Xing", b"Info")
_FRAMES, _BYTES, _TABLE, _QUALITY = 1, 2, 4, 8
_LARGEST_FRAME = 2881
_LAME = 36
"""Bytes in which the encoder describes itself, its delay and its padding."""


class XingHeader(NamedTuple):
    """An Info or Xing frame at `offset`.

    Attributes:
        frames: number of frames that follow; None where the header does not say.
        size: bytes of those frames and this one; None where the header does not say.
        name: "Info" for a constant bit rate, "Xing" otherwise.
        lame: what the encoder writes after these numbers.
    """

    offset: int
    frame_size: int
    head: bytes
    name: bytes
    frames: int | None
    size: int | None
    lame: bytes


class Mp3Stream(NamedTuple):
    """Frames of one stream and the header before them.

    Attributes:
        head: first bytes of the first frame.
        spans: byte ranges in which the frames lie.
    """

    info: XingHeader | None
    head: bytes
    spans: tuple[Span, ...]
    frames: int

    @property
    def end(self) -> int:
        return self.spans[-1].offset + self.spans[-1].size


def streams(file: BinaryIO, start: int, size: int) -> list[Stream]:
    """The streams of an mp3 file, one for each file that was joined to it, with exact lengths.

    Args:
        start: the earliest byte offset at which frames may begin.
        size: size of the file in bytes.

    Raises:
        ValueError: frames that the header promises are missing at the end.
    """
    if (single := _declared_stream(file, start, size)) is not None:
        return [single]
    runs = [part for run in _runs(file, start, size) for part in _split_appended(run)]
    # Some encoders write an empty frame before their header; decoders refuse to read one alone.
    runs = [run for run in runs if run.frames > 1] or runs
    for number, run in enumerate(runs):
        _check_complete(run, size if number == len(runs) - 1 else run.end)
    return [_stream(run) for run in runs]


def _declared_stream(file: BinaryIO, start: int, size: int) -> Stream | None:
    """The stream of a constant-bit-rate file whose size fits its header; None: frames must be counted."""
    file.seek(start)
    head = file.read(192)
    frame = frame_size(head)
    info = _read_info(Frames(start, frame, 1, head, True)) if frame else None
    if info is None or not info.frames or not info.size:
        return None
    file.seek(size - min(size, 128))
    end = size - 128 if file.read(3) == b"TAG" else size
    file.seek(start + frame)
    second = file.read(4)
    exact = exact_size(second) if kind_of(second) == kind_of(head) and frame_size(second) else 0
    constant = info.name == b"Info" and exact > 0
    if not constant or start + info.size != end or abs(info.frames * exact - (info.size - frame)) > exact / 2:
        return None
    return Stream((Span(start, end - start),))


def _runs(file: BinaryIO, start: int, size: int) -> list[Mp3Stream]:
    runs: list[Mp3Stream] = []
    info: XingHeader | None = None
    starts_run = True
    for frames in walk(file, start, size):
        if frames.tagged and (header := _read_info(frames)) is not None:
            info, starts_run = header, True
        elif frames.tagged and frames.head[36:40] == b"VBRI":
            info, starts_run = None, True
        elif starts_run or kind_of(frames.head) != kind_of(runs[-1].head):
            span = Span(frames.offset, frames.size)
            runs.append(Mp3Stream(info, frames.head[:4], (span,), frames.number))
            info, starts_run = None, False
        else:
            runs[-1] = _extended(runs[-1], frames)
    return runs


def _extended(run: Mp3Stream, frames: Frames) -> Mp3Stream:
    *before, last = run.spans
    if frames.offset == last.offset + last.size:
        spans = (*before, Span(last.offset, last.size + frames.size))
    else:
        spans = (*run.spans, Span(frames.offset, frames.size))
    return run._replace(spans=spans, frames=run.frames + frames.number)


def _read_info(frame: Frames) -> XingHeader | None:
    head, side = frame.head, _side_end(frame.head)
    # A checksum may precede the tag.
    at = next((at for at in (side, side + 2) if head[at : at + 4] in _TAGS), 0)
    if not at:
        return None
    flags = int.from_bytes(head[at + 4 : at + 8], "big")
    fields: dict[int, int] = {}
    position = at + 8
    for flag, length in ((_FRAMES, 4), (_BYTES, 4), (_TABLE, 100), (_QUALITY, 4)):
        if flags & flag:
            fields[flag] = int.from_bytes(head[position : position + length], "big")
            position += length
    lame = head[position : position + _LAME]
    numbers = fields.get(_FRAMES), fields.get(_BYTES)
    return XingHeader(frame.offset, frame.size, head[:4], head[at : at + 4], *numbers, lame)


def _side_end(head: bytes) -> int:
    """Size in bytes of a frame's header and side information; the tag follows them."""
    mono, first = head[3] >> 6 == 3, head[1] & 8 != 0
    return 4 + ((17 if mono else 32) if first else (9 if mono else 17))


def _split_appended(run: Mp3Stream) -> list[Mp3Stream]:
    """Split off a file without a header that was appended to one whose header is right about its own part."""
    info = run.info
    if info is None or not info.frames or not info.size or len(run.spans) > 1 or info.frames >= run.frames:
        return [run]
    (span,), end = run.spans, info.offset + info.size
    if not span.offset < end < run.end:
        return [run]
    first = Span(span.offset, end - span.offset)
    second = Span(end, run.end - end)
    return [
        run._replace(spans=(first,), frames=info.frames),
        Mp3Stream(None, run.head, (second,), run.frames - info.frames),
    ]


def _check_complete(run: Mp3Stream, end: int) -> None:
    """Raise ValueError when frames are missing.

    Encoders that count the header's own frame promise one too many; and if all promised bytes are there, the
    promised number of frames was wrong.
    """
    info = run.info
    if info is None or not info.frames or info.frames <= run.frames + 1:
        return
    if not info.size or info.offset + info.size > end:
        raise ValueError(f"cut off: its header promises {info.frames} frames, {run.frames} are there")


def _stream(run: Mp3Stream) -> Stream:
    info = run.info
    total = sum(span.size for span in run.spans)
    if info is None or not info.frames:
        # With an added header, the decoder would cut off a delay that it can only guess.
        return Stream(run.spans, run.frames * samples_per_frame(run.head), run.frames * _LARGEST_FRAME)
    if info.frames == run.frames and info.size in (None, info.frame_size + total):
        begin = info.offset
        contiguous = len(run.spans) == 1 and run.spans[0].offset == begin + info.frame_size
        return Stream(
            (Span(begin, run.end - begin),) if contiguous else (Span(begin, info.frame_size), *run.spans)
        )
    return Stream((_header(info.head, run.frames, total, info.lame), *run.spans))


def _header(head: bytes, frames: int, total: int, lame: bytes) -> bytes:
    """An Info frame with the true numbers, and without a seek table, so that decoders count frames."""
    # The highest bit rate: a frame of a low one has no room for the numbers. No checksum.
    head = bytes((head[0], head[1] | 1, head[2] & 0x0C | 0xE0, head[3]))
    size = frame_size(head)
    numbers = (_FRAMES | _BYTES).to_bytes(4, "big") + frames.to_bytes(4, "big")
    content = head + bytes(_side_end(head) - 4) + b"Info" + numbers + (size + total).to_bytes(4, "big") + lame
    return content.ljust(size, b"\0")
