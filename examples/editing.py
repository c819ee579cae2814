"""What the edits of `generate` do to sounds of the quickstart, measured as its evaluation listens.

    make demo
    python examples/editing.py

writes every sound to runs/editing and prints the tables of docs/examples/editing.md. The model was trained to
generate notes of 1.25 s and nothing else: it has no input for inpainting.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stable_audio import generate, load_model
from stable_audio.audio.io import save_audio
from stable_audio.data.synthetic.notes import note_frequency, note_name
from stable_audio.data.synthetic.pitched import PITCHED, STEADY
from stable_audio.data.synthetic.rendering import RELEASE, Voice, render
from stable_audio.evaluation.listening import limits
from stable_audio.evaluation.listening.bands import fingerprint
from stable_audio.evaluation.listening.defects import has_clicks
from stable_audio.evaluation.listening.notes import judge_note, note_pitch
from stable_audio.evaluation.listening.references import References
from stable_audio.evaluation.pitch import Array, semitones_between
from stable_audio.inference.generation.coding import encode_each, fit_audio
from stable_audio.model import DiffusionModel

SETTINGS: dict[str, Any] = {"steps": 24, "cfg_scale": 1.5}
LEVEL = 10 ** (-11 / 20)
"""Of a sound that no word calls loud or soft."""
PITCHES = (52, 57, 60, 64, 67, 71)
GAP = (0.35, 0.75)
"""Seconds in the middle of a note."""
MIXES = (0.0, 0.25, 0.5, 0.75, 1.0)

Row = dict[str, bool | float]


class Bench:
    """A model, and the means to listen to it.

    Args:
        out: folder for sounds.
        count: edits of each kind.
    """

    def __init__(self, model: DiffusionModel, out: Path, count: int) -> None:
        self.model, self.out, self.count = model, out, count
        self.rate, self.size = model.sample_rate, model.sample_size
        self.references = References(self.rate)

    def render(self, timbre: str, *notes: tuple[int, float, float]) -> Tensor:
        """Notes (MIDI, onset, seconds) of one timbre as the collection renders them, (1 n)."""
        voices = [
            Voice(note_frequency(midi), seconds, LEVEL, 0.0, 0.0, midi, onset=onset)
            for midi, onset, seconds in notes
        ]
        sound = render(PITCHED[timbre], *voices, sample_rate=self.rate, sample_size=self.size)
        return torch.from_numpy(np.asarray(sound, dtype=np.float32))[None]

    def generate(self, prompts: str | Sequence[str], **edit: Any) -> Tensor:
        items = [prompts] if isinstance(prompts, str) else prompts
        seconds = {"seconds_total": 1.05}
        return generate(self.model, [{"prompt": p, **seconds} for p in items], **{**SETTINGS, **edit})

    def save(self, name: str, clip: Tensor) -> Array:
        """Write the clip (1 n); returns its samples (n,)."""
        save_audio(self.out / f"{name}.wav", clip, self.rate, subtype="FLOAT")
        return clip[0].double().numpy()

    def clicks(self, samples: Array, *originals: Array) -> bool:
        """Whether the evaluation hears a click that none of the originals has."""
        return has_clicks(samples, originals, self.rate)

    def distance(self, a: Array, b: Array) -> float:
        """Mean difference of two sounds in the features of the evaluation, in dB."""
        return float(np.abs(fingerprint(a, self.rate) - fingerprint(b, self.rate)).mean())


def name_of(timbre: str) -> str:
    return f"{'an' if timbre[0] in 'aeiou' else 'a'} {timbre}"


def inpainting(bench: Bench, repeats: int) -> list[Row]:
    """The second note of a rendered take is made anew as another note."""
    rows: list[Row] = []
    timbres = list(PITCHED)
    for i in range(bench.count):
        timbre, rng = timbres[i % len(timbres)], np.random.default_rng(i)
        first, second, third = (int(m) for m in rng.choice(PITCHES, 3, replace=False))
        onset, end = 0.52, 1.04
        take = bench.render(timbre, (first, 0.0, onset), (second, onset, end - onset))
        prompt = f"{name_of(timbre)}, {note_name(first)} then {note_name(third)}"
        edit = {"inpaint_audio": take, "inpaint_seconds": [(onset, np.inf)], "inpaint_repeats": repeats}
        (clip,) = bench.generate(prompt, seeds=i, **edit)
        samples = bench.save(f"inpainting_{repeats}_{i:02d}", clip)
        start = round(onset * bench.rate)
        note = judge_note(samples[start:], bench.references, timbre=timbre, midi=third, seconds=end - onset)
        rows.append(
            {
                "kept samples equal": bool(torch.equal(clip[:, :start], take[:, :start])),
                "click": bench.clicks(samples, take[0].double().numpy()),
                "pitch": note.pitch,
                "timbre": note.timbre,
                "pitch and timbre": note.pitch and note.timbre,
            }
        )
    return rows


def repair(bench: Bench, repeats: int) -> list[Row]:
    """A gap in the middle of a held note is filled."""
    rows: list[Row] = []
    timbres = list(STEADY)
    for i in range(bench.count):
        timbre, midi = timbres[i % len(timbres)], PITCHES[(i // len(timbres)) % len(PITCHES)]
        take, (first, behind) = bench.render(timbre, (midi, 0.0, 1.05)), GAP
        edit = {"inpaint_audio": take, "inpaint_seconds": [GAP], "inpaint_repeats": repeats}
        (clip,) = bench.generate(f"a long {timbre}, note {note_name(midi)}", seeds=i, **edit)
        samples, own = bench.save(f"repair_{repeats}_{i:02d}", clip), take[0].double().numpy()
        start, stop = round(first * bench.rate), round(behind * bench.rate)
        kept = torch.ones(clip.shape[-1], dtype=torch.bool)
        kept[start:stop] = False
        frequency = note_pitch(samples[start:stop], bench.rate, behind - first)
        off = np.inf if frequency is None else semitones_between(frequency, note_frequency(midi))
        note = judge_note(samples, bench.references, timbre=timbre, midi=midi, seconds=1.05)
        rows.append(
            {
                "kept samples equal": bool(torch.equal(clip[:, kept], take[:, kept])),
                "click": bench.clicks(samples, own),
                "pitch of the gap": bool(abs(off) <= limits.PITCH_SEMITONES),
                "partials and envelope of the whole": note.deviation == 0 and note.shape,
                "no noise between its partials": not note.noisy,
                "seams within 3 dB": all(abs(_step(samples, at, bench.rate)) <= 3 for at in (start, stop)),
            }
        )
    return rows


def continuation(bench: Bench, repeats: int) -> list[Row]:
    """Half a second of a held note goes on for half a second more."""
    rows: list[Row] = []
    timbres = list(STEADY)
    for i in range(bench.count):
        timbre, midi = timbres[i % len(timbres)], PITCHES[(i // len(timbres)) % len(PITCHES)]
        kept, more = round(0.5 * bench.rate), 0.55
        take = bench.render(timbre, (midi, 0.0, 1.05))[:, :kept]
        prompt = f"a long {timbre}, note {note_name(midi)}"
        edit = {"inpaint_audio": take, "inpaint_seconds": [(0.5, np.inf)], "inpaint_repeats": repeats}
        (clip,) = bench.generate(prompt, seeds=i, seconds=0.5 + more, **edit)
        samples = bench.save(f"continuation_{repeats}_{i:02d}", clip)
        frequency = note_pitch(samples[kept:], bench.rate, more - RELEASE)
        off = np.inf if frequency is None else semitones_between(frequency, note_frequency(midi))
        rows.append(
            {
                "kept samples equal": bool(torch.equal(clip[:, :kept], take)),
                "click": bench.clicks(samples, bench.render(timbre, (midi, 0.0, 1.05))[0].double().numpy()),
                "pitch": bool(abs(off) <= limits.PITCH_SEMITONES),
                "seam within 3 dB": abs(_step(samples, kept, bench.rate)) <= 3,
            }
        )
    return rows


def _step(samples: Array, at: int, rate: int) -> float:
    """Level of the 60 ms behind a place relative to the 60 ms before it, in dB."""
    width = round(0.06 * rate)
    before, behind = samples[at - width : at], samples[at : at + width]
    return float(10 * np.log10((np.square(behind).mean() + 1e-12) / (np.square(before).mean() + 1e-12)))


def loops(bench: Bench) -> list[Row]:
    """Loops of bars that are no whole number of latent frames."""
    rows: list[Row] = []
    for i in range(bench.count):
        timbre, midi = list(PITCHED)[i % len(PITCHED)], PITCHES[i % len(PITCHES)]
        seconds = 60 / (90 + 7 * i)
        (clip,) = bench.generate(
            f"{name_of(timbre)}, note {note_name(midi)}", seeds=i, seconds=seconds, loop=True
        )
        samples = bench.save(f"loop_{i:02d}", clip)
        (plain,) = bench.generate(f"{name_of(timbre)}, note {note_name(midi)}", seeds=i)
        cut = plain[0, : len(samples)].double().numpy()
        rows.append(
            {
                "exact length": len(samples) == round(seconds * bench.rate),
                "click": bench.clicks(_seam(samples), samples),
                "click if cut": bench.clicks(_seam(cut), cut),
            }
        )
    return rows


def _seam(samples: Array) -> Array:
    """The sound twice, from its middle to its middle: the seam in the middle."""
    half = len(samples) // 2
    return np.concatenate([samples[half:], samples[:half]])


def interpolation(bench: Bench) -> list[Row]:
    """From one timbre to another at one pitch, and from one noise to another."""
    rows: list[Row] = []
    timbres = list(PITCHED)
    for i in range(bench.count):
        a, b = timbres[i % len(timbres)], timbres[(i + 1 + i // len(timbres)) % len(timbres)]
        note = note_name(PITCHES[i % len(PITCHES)])
        item = {"prompt": f"{name_of(a)}, note {note}", "seconds_total": 1.05}
        count = len(MIXES)
        way = generate(
            bench.model,
            [item] * count,
            seeds=[i] * count,
            to_conditioning={"prompt": f"{name_of(b)}, note {note}"},
            mix=MIXES,
            **SETTINGS,
        )
        takes = generate(
            bench.model, [item] * count, seeds=[i] * count, to_seeds=i + 1000, mix=MIXES, **SETTINGS
        )
        prompts = [bench.save(f"prompts_{i:02d}_{m:g}", c) for m, c in zip(MIXES, way)]
        noises = [bench.save(f"noises_{i:02d}_{m:g}", c) for m, c in zip(MIXES, takes)]
        away = [bench.distance(prompts[0], p) for p in prompts]
        near = [bench.distance(prompts[-1], p) for p in prompts]
        variation = [bench.distance(noises[0], p) for p in noises]
        rows.append(
            {
                "prompts: away from the first": _rising(away),
                "prompts: towards the second": _rising([-d for d in near]),
                "noise: away from the take": _rising(variation),
                **{f"prompts: distance at {m:g} (dB)": d for m, d in zip(MIXES, away)},
                **{f"noise: distance at {m:g} (dB)": d for m, d in zip(MIXES, variation)},
            }
        )
    return rows


def _rising(values: Sequence[float]) -> bool:
    """Whether values rise, but for what is a tenth of their range."""
    slack = 0.1 * (max(values) - min(values))
    return all(b >= a - slack for a, b in pairwise(values))


def inversion(bench: Bench) -> list[Row]:
    """A rendered note returns from its own noise, and becomes another timbre at its pitch."""
    rows: list[Row] = []
    timbres = list(STEADY)
    for i in range(bench.count):
        a, b = timbres[i % len(timbres)], timbres[(i + 1 + i // len(timbres)) % len(timbres)]
        midi = PITCHES[i % len(PITCHES)]
        take = bench.render(a, (midi, 0.0, 1.05))
        source, target = (f"{name_of(t)}, note {note_name(midi)}" for t in (a, b))
        common: dict[str, Any] = {"init_audio": take, "init_noise_level": 1.0, "seeds": i}
        again, fresh = (
            bench.generate(source, inversion_steps=steps, return_latents=True, **{**common, "cfg_scale": 1.0})
            for steps in (24, 0)
        )
        latents = encode_each(bench.model, fit_audio(take, None, bench.model, bench.size), None)
        (edited,) = bench.generate(
            target, inversion_steps=24, init_conditioning=source, **{**common, "init_noise_level": 0.9}
        )
        sound = bench.save(f"edited_{i:02d}", edited)
        note = judge_note(sound, bench.references, timbre=b, midi=midi, seconds=1.05)
        rows.append(
            {
                "error of latents from its own noise": _error(again, latents),
                "error of latents from other noise": _error(fresh, latents),
                "edited: pitch kept": note.pitch,
                "edited: new timbre": note.timbre,
                "edited: heard as the new one": bench.references.nearest(sound, midi) == b,
            }
        )
    return rows


def _error(latents: Tensor, expected: Tensor) -> float:
    """Root mean square difference as a share of the deviation."""
    return float((latents - expected.cpu()).square().mean().sqrt() / expected.std())


def long_clips(bench: Bench) -> list[Row]:
    """Ten times the length of training, in windows."""
    rows: list[Row] = []
    timbres = list(STEADY)
    for i in range(max(1, bench.count // 6)):
        timbre, midi = timbres[i % len(timbres)], PITCHES[i % len(PITCHES)]
        (clip,) = bench.generate(
            f"a long {timbre}, note {note_name(midi)}", seeds=i, seconds=12.5, window_seconds=0
        )
        samples = bench.save(f"long_{i:02d}", clip)
        parts = [samples[k * bench.rate :][: bench.rate] for k in range(12)]
        pitches = [note_pitch(part, bench.rate, 1.0) for part in parts]
        right = [
            f is not None and abs(semitones_between(f, note_frequency(midi))) <= limits.PITCH_SEMITONES
            for f in pitches
        ]
        rows.append(
            {
                "click": bench.clicks(samples, bench.render(timbre, (midi, 0.0, 1.05))[0].double().numpy()),
                "seconds with the pitch": float(np.mean(right)),
            }
        )
    return rows


def summary(rows: Sequence[Row]) -> dict[str, str]:
    """Share of rows where a statement holds; the mean of figures."""
    told = {}
    for key, first in rows[0].items():
        values = [float(row[key]) for row in rows]
        told[key] = f"{np.mean(values):.0%}" if isinstance(first, bool) else f"{np.mean(values):.2f}"
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ckpt-path", default="runs/demo/quickstart/last.safetensors")
    parser.add_argument("--out", type=Path, default=Path("runs/editing"))
    parser.add_argument("--count", type=int, default=36, help="edits of each kind")
    parser.add_argument("--only", nargs="*", help="kinds of edits; all without it")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model, _ = load_model(args.ckpt_path)
    assert isinstance(model, DiffusionModel)
    bench = Bench(model, args.out, args.count)
    kinds: dict[str, Callable[[], list[Row]]] = {
        "inpainting, each step once": lambda: inpainting(bench, 1),
        "inpainting, each step 4 times": lambda: inpainting(bench, 4),
        "repair, each step once": lambda: repair(bench, 1),
        "repair, each step 4 times": lambda: repair(bench, 4),
        "continuation": lambda: continuation(bench, 4),
        "loops": lambda: loops(bench),
        "interpolation": lambda: interpolation(bench),
        "inversion": lambda: inversion(bench),
        "long clips": lambda: long_clips(bench),
    }
    results = {}
    for name, measure in kinds.items():
        if args.only and not any(name.startswith(prefix) for prefix in args.only):
            continue
        results[name] = summary(measure())
        print(f"\n### {name}\n\n| | |\n|---|---|")
        print("\n".join(f"| {key} | {value} |" for key, value in results[name].items()), flush=True)
    (args.out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
