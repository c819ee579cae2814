"""Time of one item of a dataset of sound files, against the same crop read by soundfile alone.

    python -m benchmarks.item_time [SECONDS_OF_CLIP [REPEATS]]

Prints one line per format: milliseconds per item, per crop by soundfile (open, seek, read), and their ratio,
by the medians of interleaved rounds over the same files, shorter and longer than the clip.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from stable_audio.data import ItemKey, create_dataset

RATE = 44100
FILES = 8
SHORT, LONG = 0.5, 60.0


def write_files(folder: Path, form: str, seconds: float) -> list[Path]:
    """Noise in stereo."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    paths = [folder / f"{n}.{form}" for n in range(FILES)]
    for path in paths:
        with soundfile.SoundFile(path, "w", RATE, 2) as file:
            for _ in range(round(seconds / SHORT)):  # the Vorbis encoder crashes on minutes at a time
                file.write(0.1 * generator.standard_normal((round(SHORT * RATE), 2)))
    return paths


def crop(path: Path, length: int) -> np.ndarray:
    """What a loader without any checks does: open, seek, read."""
    with soundfile.SoundFile(path) as file:
        file.seek(max(0, (file.frames - length) // 2))
        return file.read(length, dtype="float32", always_2d=True)


def rounds(calls: dict[str, Callable[[int], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each call, one after another for each file; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(repeats + 1):
        for index in range(FILES):
            for name, call in calls.items():
                started = time.perf_counter()
                call(index)
                if number:
                    times[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    clip_seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    length = round(clip_seconds * RATE)
    print(f"clips of {clip_seconds:g} s; milliseconds: item, soundfile alone, ratio")
    with tempfile.TemporaryDirectory() as root:
        for form in ("wav", "flac", "mp3", "ogg"):
            for seconds in (SHORT, LONG):
                folder = Path(root) / f"{form}{seconds:g}"
                paths = write_files(folder, form, seconds)
                config = {"dataset_type": "audio_dir", "datasets": [{"id": "x", "path": str(folder)}]}
                dataset = create_dataset(config, sample_rate=RATE, sample_size=length, audio_channels=2)
                found = rounds(
                    {
                        "item": lambda i, d=dataset: d[ItemKey(i, 0)],
                        "bare": lambda i, p=paths: crop(p[i], length),
                    },
                    repeats,
                )
                ratio = found["item"] / found["bare"]
                print(
                    f"{form:>5} of {seconds:4g} s {found['item']:8.2f} {found['bare']:8.2f} {ratio:6.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
