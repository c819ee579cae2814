"""Renders a captioned folder of sampled General MIDI instruments with FluidSynth.

Each clip is one note of one instrument, a wav with a .txt caption beside it, split into `train` and
`val` folders that share no (instrument, note, loudness). A third folder, `others`, has notes struck
otherwise and held for other times: a listener that has heard none of the first two learns from them.
Needs the `fluidsynth` program and a soundfont:

    apt-get install fluidsynth fluid-soundfont-gm
    python examples/general_midi.py --out data/general_midi

Then train with model_configs/examples/general_midi.json and dataset_configs/general_midi.json, and judge
the result with examples/general_midi_judge.py; docs/examples/general_midi.md shows what to expect.
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
"""Word of a caption -> MIDI velocity."""

GATE = 0.7
"""Share of a clip for which its note is held."""

OTHERS = ((45, 0.8), (70, 0.6), (100, 0.8), (125, 0.6))
"""(velocity, gate) of the notes that are in neither train nor val."""


@dataclass(frozen=True)
class Note:
    """One clip: an instrument, a MIDI pitch and how hard it is struck, in a word and as MIDI velocity."""

    instrument: str
    pitch: int
    loudness: str
    velocity: int

    @property
    def name(self) -> str:
        return f"{NAMES[self.pitch % 12]}{self.pitch // 12 - 1}"

    @property
    def caption(self) -> str:
        return f"{self.loudness} {self.instrument} playing {self.name}"

    @property
    def stem(self) -> str:
        return f"{self.instrument}_{self.name}_{self.loudness}".replace(" ", "-").replace("#", "s")


def captioned(text: str) -> tuple[str, int]:
    """(instrument, MIDI pitch) of a caption of `Note`."""
    sound, _, name = text.strip().rpartition(" playing ")
    _, _, instrument = sound.partition(" ")
    return instrument, NAMES.index(name[:-1]) + 12 * (int(name[-1]) + 1)


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
        track += variable_length(off if n else 0) + bytes([0x90, note.pitch, note.velocity])
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


def clips(
    program: int, notes: list[Note], options: argparse.Namespace, *, gate: float = GATE
) -> Iterator[tuple[Note, np.ndarray]]:
    """Notes of one instrument with their mono sound, faded out over the last 50 ms."""
    # Twice the clip, so that one note's release never reaches the next clip.
    spacing = 2 * options.seconds
    midi = midi_file(program, notes, gate=gate * options.seconds, spacing=spacing)
    sound = play(midi, options.soundfont, options.sample_rate).mean(axis=1)
    length, fade = round(options.seconds * options.sample_rate), round(0.05 * options.sample_rate)
    for n, note in enumerate(notes):
        start = round(n * spacing * options.sample_rate)
        clip = np.zeros(length, dtype=np.float32)
        part = sound[start : start + length]
        clip[: len(part)] = part
        clip[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
        yield note, clip


def write(note: Note, clip: np.ndarray, folder: Path, sample_rate: int) -> None:
    """A wav and its caption."""
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / f"{note.stem}.wav", clip, sample_rate, subtype="PCM_16")
    (folder / f"{note.stem}.txt").write_text(note.caption + "\n")


def captioned_notes(instrument: str, options: argparse.Namespace) -> list[Note]:
    """Every pitch in every loudness."""
    pitches = range(options.low, options.high + 1)
    return [Note(instrument, p, word, velocity) for p in pitches for word, velocity in LOUDNESS.items()]


def write_others(program: int, instrument: str, options: argparse.Namespace, folder: Path) -> int:
    """Every pitch struck and held as in OTHERS; returns the number of clips."""
    pitches = range(options.low, options.high + 1)
    for velocity, gate in OTHERS:
        notes = [Note(instrument, p, str(velocity), velocity) for p in pitches]
        for note, clip in clips(program, notes, options, gate=gate):
            write(note, clip, folder, options.sample_rate)
    return len(OTHERS) * len(pitches)


def add_rendering_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--soundfont", type=Path, default=None, help="a .sf2 file; default: the packaged one")
    parser.add_argument("--sample-rate", type=int, default=22_050)
    parser.add_argument("--seconds", type=float, default=1.25, help="length of a clip")
    parser.add_argument("--low", type=int, default=48, help="lowest MIDI pitch (48 = C3)")
    parser.add_argument("--high", type=int, default=83, help="highest MIDI pitch (83 = B5)")


def with_soundfont(options: argparse.Namespace) -> argparse.Namespace:
    """The options with the packaged soundfont, unless one is named; ends the program if there is none."""
    packaged = [Path(f) for f in SOUNDFONTS if Path(f).exists()]
    options.soundfont = options.soundfont or (packaged[0] if packaged else None)
    if shutil.which("fluidsynth") is None or options.soundfont is None:
        sys.exit("FluidSynth or its soundfont is missing: apt-get install fluidsynth fluid-soundfont-gm")
    return options


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("data/general_midi"))
    parser.add_argument("--val-share", type=float, default=0.1)
    add_rendering_options(parser)
    options = with_soundfont(parser.parse_args())
    chance = random.Random(0)
    count = {"train": 0, "val": 0, "others": 0}
    for instrument, program in PROGRAMS.items():
        for note, clip in clips(program, captioned_notes(instrument, options), options):
            split = "val" if chance.random() < options.val_share else "train"
            write(note, clip, options.out / split, options.sample_rate)
            count[split] += 1
        count["others"] += write_others(program, instrument, options, options.out / "others")
    print(", ".join(f"{number} clips in {options.out / split}" for split, number in count.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
