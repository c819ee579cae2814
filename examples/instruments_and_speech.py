"""Renders a folder of stereo clips at 44.1 kHz, sampled instruments and speech, to train autoencoders on.

Instruments are short random chords and lines, each note somewhere else between left and right, played by
FluidSynth; speech is random sentences of several voices by espeak-ng, each speaker at its own place. The
split into `train` and `val` shares no clip. Needs three packages:

    apt-get install fluidsynth fluid-soundfont-gm espeak-ng
    python examples/instruments_and_speech.py --out data/instruments_and_speech

Then train with model_configs/examples/vae_small_44k.json and dataset_configs/instruments_and_speech.json;
docs/examples/vae.md shows what to expect.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
from general_midi import BEATS_PER_SECOND, SOUNDFONTS, TICKS_PER_BEAT, play, variable_length

FADE_SECONDS = 0.02
PAN, PROGRAM, NOTE_ON, NOTE_OFF = 10, 0xC0, 0x90, 0x80

PROGRAMS = {
    "piano": 0,
    "electric-piano": 4,
    "glockenspiel": 9,
    "marimba": 12,
    "organ": 19,
    "nylon-guitar": 24,
    "steel-guitar": 25,
    "overdriven-guitar": 29,
    "fingered-bass": 33,
    "violin": 40,
    "cello": 42,
    "strings": 48,
    "choir": 52,
    "trumpet": 56,
    "horn": 60,
    "saxophone": 65,
    "oboe": 68,
    "clarinet": 71,
    "flute": 73,
    "pad": 89,
    "sitar": 104,
    "kalimba": 108,
}
VOICES = ("en-us", "en-gb", "en-us+f3", "en-gb+f2", "en-us+m4", "de", "fr", "es+f4", "it", "sv+f1")
TEXT = (
    "the river runs slowly under seven bridges and nobody counts the boats any more while small green "
    "lamps shine over a quiet harbour she asked for paper thread and sugar before winter closed our road "
    "every third evening they rehearse music between tall shelves of dusty glass just to hear it ring"
)


def events(chance: random.Random, seconds: float) -> list[tuple[float, bytes]]:
    """(seconds, MIDI message) of a random phrase of two to four voices, each with a channel and a place."""
    found: list[tuple[float, bytes]] = []
    for channel in range(chance.randint(2, 4)):
        found.append((0.0, bytes([0xB0 | channel, PAN, chance.randint(10, 117)])))
        now, centre = chance.uniform(0, 0.2), chance.randint(45, 84)
        while now < seconds - 0.1:
            length = chance.choice((0.12, 0.25, 0.25, 0.5, 0.75, 1.0))
            pitch = min(108, max(28, centre + chance.choice((-12, -7, -5, -3, 0, 0, 2, 4, 5, 7, 12))))
            found.append((now, bytes([NOTE_ON | channel, pitch, chance.randint(50, 115)])))
            found.append((now + 0.95 * length, bytes([NOTE_OFF | channel, pitch, 0])))
            now += length * chance.choice((1, 1, 1, 1.5))
    return found


def midi_phrase(program: int, found: list[tuple[float, bytes]]) -> bytes:
    """A format-0 MIDI file of `found`, all channels with the same program."""
    channels = {message[0] & 0x0F for _, message in found}
    track = b"".join(variable_length(0) + bytes([PROGRAM | c, program]) for c in sorted(channels))
    before = 0
    for seconds, message in sorted(found, key=lambda event: event[0]):
        tick = round(seconds * BEATS_PER_SECOND * TICKS_PER_BEAT)
        track += variable_length(tick - before) + message
        before = tick
    track += variable_length(TICKS_PER_BEAT) + bytes([0xFF, 0x2F, 0])
    header = b"MThd" + (6).to_bytes(4, "big") + bytes([0, 0, 0, 1]) + TICKS_PER_BEAT.to_bytes(2, "big")
    return header + b"MTrk" + len(track).to_bytes(4, "big") + track


def instrument(chance: random.Random, options: argparse.Namespace) -> tuple[str, np.ndarray]:
    """Name of an instrument and a phrase of it (n, 2)."""
    name = chance.choice(sorted(PROGRAMS))
    midi = midi_phrase(PROGRAMS[name], events(chance, options.seconds))
    return name, play(midi, options.soundfont, options.sample_rate)


def speech(chance: random.Random, options: argparse.Namespace) -> tuple[str, np.ndarray]:
    """Name of a voice and a random sentence of it (n, 2), somewhere between left and right."""
    voice = chance.choice(VOICES)
    words = " ".join(chance.choices(TEXT.split(), k=round(4 * options.seconds)))
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "speech.wav"
        settings = ["-s", str(chance.randint(130, 190)), "-p", str(chance.randint(25, 75))]
        subprocess.run(["espeak-ng", "-v", voice, *settings, "-w", str(sound), words], check=True)
        mono, rate = soundfile.read(sound, dtype="float32")
    mono = soxr.resample(mono, rate, options.sample_rate)
    angle = chance.uniform(0.15, 0.85) * np.pi / 2
    return voice.replace("+", "-"), np.stack([np.cos(angle) * mono, np.sin(angle) * mono], axis=1)


def finish(sound: np.ndarray, chance: random.Random, options: argparse.Namespace) -> np.ndarray:
    """`sound` cut or padded to the clip's length, faded out, at a random level."""
    length, fade = round(options.seconds * options.sample_rate), round(FADE_SECONDS * options.sample_rate)
    clip = np.zeros((length, 2), dtype=np.float32)
    clip[: len(sound)] = sound[:length]
    clip[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)[:, None]
    peak = float(np.abs(clip).max())
    return clip * (chance.uniform(0.4, 0.9) / peak) if peak > 0 else clip


def clips(options: argparse.Namespace) -> Iterator[tuple[str, np.ndarray]]:
    """Clip i depends on the seed and i alone. Two of three clips are music, the third is speech."""
    kinds: list[tuple[str, Callable[..., tuple[str, np.ndarray]]]] = [
        ("music", instrument),
        ("music", instrument),
        ("speech", speech),
    ]
    for i in range(options.count):
        chance = random.Random(f"{options.seed} {i}")
        kind, make = kinds[i % len(kinds)]
        name, sound = make(chance, options)
        yield f"{i:04d}_{kind}_{name}", finish(sound, chance, options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("data/instruments_and_speech"))
    parser.add_argument("--soundfont", type=Path, default=None, help="a .sf2 file; default: the packaged one")
    parser.add_argument("--sample-rate", type=int, default=44_100)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a clip")
    parser.add_argument("--count", type=int, default=330, help="clips")
    parser.add_argument("--val-every", type=int, default=11, help="every n-th clip is held out")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> int:
    options = parse()
    missing = [p for p in ("fluidsynth", "espeak-ng") if shutil.which(p) is None]
    found = [Path(f) for f in SOUNDFONTS if Path(f).exists()]
    options.soundfont = options.soundfont or (found[0] if found else None)
    if missing or options.soundfont is None:
        lacking = ", ".join([*missing, *([] if options.soundfont else ["a soundfont"])])
        sys.exit(f"missing: {lacking}; apt-get install fluidsynth fluid-soundfont-gm espeak-ng")
    count = {"train": 0, "val": 0}
    for i, (stem, clip) in enumerate(clips(options)):
        split = "val" if i % options.val_every == options.val_every - 1 else "train"
        folder = options.out / split
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{stem}.wav", clip, options.sample_rate, subtype="PCM_16")
        count[split] += 1
    print(f"{count['train']} clips in {options.out / 'train'}, {count['val']} in {options.out / 'val'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
