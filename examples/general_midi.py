"""Renders a captioned folder of sampled General MIDI instruments with FluidSynth.

Each clip is one note of one instrument, a wav with a .txt caption beside it, split into `train` and
`val` folders that share no (instrument, note, velocity). Needs the `fluidsynth` program and a soundfont:

    apt-get install fluidsynth fluid-soundfont-gm
    python examples/general_midi.py --out data/general_midi

Then train with model_configs/examples/general_midi.json and dataset_configs/general_midi.json;
docs/examples/general_midi.md shows what to expect.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

TICKS_PER_BEAT = 480
BEATS_PER_SECOND = 2  # the default tempo of a MIDI file, 120 beats a minute
NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
SOUNDFONTS = ("/usr/share/sounds/sf2/FluidR3_GM.sf2", "/usr/share/sounds/sf2/default-GM.sf2")

PROGRAMS = {
    "acoustic grand piano": 0,
    "vibraphone": 11,
    "church organ": 19,
    "nylon guitar": 24,
    "slap bass": 36,
    "violin": 40,
    "trumpet": 56,
    "flute": 73,
}
LOUDNESS = {"soft": 55, "medium": 85, "loud": 115}


@dataclass(frozen=True)
class Note:
    """One clip: an instrument, a MIDI pitch and how hard it is struck."""

    instrument: str
    pitch: int
    loudness: str

    @property
    def name(self) -> str:
        return f"{NAMES[self.pitch % 12]}{self.pitch // 12 - 1}"

    @property
    def caption(self) -> str:
        return f"{self.loudness} {self.instrument} playing {self.name}"

    @property
    def stem(self) -> str:
        return f"{self.instrument}_{self.name}_{self.loudness}".replace(" ", "-").replace("#", "s")


def variable_length(value: int) -> bytes:
    """MIDI's variable-length quantity: seven bits a byte, high bit set on all but the last."""
    out = [value & 0x7F]
    while value := value >> 7:
        out.append(0x80 | value & 0x7F)
    return bytes(reversed(out))


def midi_file(program: int, notes: list[Note], *, gate: float, spacing: float) -> bytes:
    """A format-0 MIDI file that plays `notes` one after another, each held `gate` of `spacing` seconds."""
    on = round(gate * BEATS_PER_SECOND * TICKS_PER_BEAT)
    off = round(spacing * BEATS_PER_SECOND * TICKS_PER_BEAT) - on
    track = variable_length(0) + bytes([0xC0, program])
    for n, note in enumerate(notes):
        track += variable_length(off if n else 0) + bytes([0x90, note.pitch, LOUDNESS[note.loudness]])
        track += variable_length(on) + bytes([0x80, note.pitch, 0])
    track += variable_length(off) + bytes([0xFF, 0x2F, 0])
    header = b"MThd" + (6).to_bytes(4, "big") + bytes([0, 0, 0, 1]) + TICKS_PER_BEAT.to_bytes(2, "big")
    return header + b"MTrk" + len(track).to_bytes(4, "big") + track


def play(midi: bytes, soundfont: Path, sample_rate: int) -> np.ndarray:
    """Render with FluidSynth, no reverb or chorus: samples (n, 2) float32."""
    with tempfile.TemporaryDirectory() as folder:
        score, sound = Path(folder) / "score.mid", Path(folder) / "sound.wav"
        score.write_bytes(midi)
        command = ["fluidsynth", "-ni", "-q", "-R", "0", "-C", "0", "-g", "0.8", "-O", "float", "-T", "wav"]
        subprocess.run(
            [*command, "-r", str(sample_rate), "-F", str(sound), str(soundfont), str(score)], check=True
        )
        return soundfile.read(sound, dtype="float32", always_2d=True)[0]


def clips(instrument: str, options: argparse.Namespace) -> Iterator[tuple[Note, np.ndarray]]:
    """Every note of an instrument with its mono sound, faded out over the last 50 ms."""
    notes = [Note(instrument, p, v) for p in range(options.low, options.high + 1) for v in LOUDNESS]
    # Twice the clip, so that one note's release never reaches the next clip.
    spacing = 2 * options.seconds
    midi = midi_file(PROGRAMS[instrument], notes, gate=0.7 * options.seconds, spacing=spacing)
    sound = play(midi, options.soundfont, options.sample_rate).mean(axis=1)
    length, fade = round(options.seconds * options.sample_rate), round(0.05 * options.sample_rate)
    for n, note in enumerate(notes):
        start = round(n * spacing * options.sample_rate)
        clip = np.zeros(length, dtype=np.float32)
        part = sound[start : start + length]
        clip[: len(part)] = part
        clip[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
        yield note, clip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("data/general_midi"))
    parser.add_argument("--soundfont", type=Path, default=None, help="a .sf2 file; default: the packaged one")
    parser.add_argument("--sample-rate", type=int, default=16_000)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a clip")
    parser.add_argument("--low", type=int, default=60, help="lowest MIDI pitch (60 = C4)")
    parser.add_argument("--high", type=int, default=83, help="highest MIDI pitch (83 = B5)")
    parser.add_argument("--val-share", type=float, default=0.1)
    return parser.parse_args()


def main() -> int:
    options = parse()
    found = [Path(f) for f in SOUNDFONTS if Path(f).exists()]
    options.soundfont = options.soundfont or (found[0] if found else None)
    if shutil.which("fluidsynth") is None or options.soundfont is None:
        sys.exit("FluidSynth or its soundfont is missing: apt-get install fluidsynth fluid-soundfont-gm")
    chance = random.Random(0)
    count = {"train": 0, "val": 0}
    for instrument in PROGRAMS:
        for note, clip in clips(instrument, options):
            split = "val" if chance.random() < options.val_share else "train"
            folder = options.out / split
            folder.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / f"{note.stem}.wav", clip, options.sample_rate, subtype="PCM_16")
            (folder / f"{note.stem}.txt").write_text(note.caption + "\n")
            count[split] += 1
    print(f"{count['train']} clips in {options.out / 'train'}, {count['val']} in {options.out / 'val'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
