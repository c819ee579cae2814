"""What the edits of `generate` do to recorded notes of the General MIDI example, as its judge hears them.

    python examples/editing_general_midi.py --ckpt-path runs/general_midi

Parts of the recordings in `val` are made anew from their captions, by the model of
docs/examples/general_midi.md, which knows single notes and has no input for inpainting. Prints the tables of
docs/examples/editing.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from general_midi_judge import Recording, recordings
from torch import Tensor

from stable_audio import generate, load_model
from stable_audio.audio.json_files import write_json
from stable_audio.evaluation.instruments import InstrumentClassifier, has_pitch, learn_instruments
from stable_audio.evaluation.listening.defects import has_clicks
from stable_audio.model import DiffusionModel

PARTS = {
    "a gap of 0.4 s": (0.35, 0.75),
    "all after 0.5 s": (0.5, np.inf),
    "all after 0.2 s": (0.2, np.inf),
}
"""Name of an edit -> seconds that are made anew."""
SEAM = 0.08
"""Seconds of a cross-fade, at most."""
SETTINGS = {"steps": 24, "cfg_scale": 1.5}


def edited(
    model: DiffusionModel, note: Recording, part: tuple[float, float], seed: int
) -> tuple[Tensor, Tensor]:
    """The recording and what it became, both (1 n)."""
    take = torch.zeros(1, model.sample_size)
    length = min(len(note.samples), model.sample_size)
    take[0, :length] = torch.from_numpy(note.samples[:length]).float()
    (clip,) = generate(
        model,
        [{"prompt": note.caption}],
        seeds=seed,
        inpaint_audio=take,
        inpaint_seconds=[part],
        inpaint_repeats=4,
        **SETTINGS,
    )
    return take, clip


def inpainted(
    model: DiffusionModel,
    notes: Sequence[Recording],
    classifier: InstrumentClassifier,
    part: tuple[float, float],
) -> dict[str, float]:
    """Shares of the notes, of which a part is made anew, that are right."""
    rate, right = model.sample_rate, []
    for seed, note in enumerate(notes):
        take, clip = edited(model, note, part, seed)
        start, stop = round(part[0] * rate), round(min(part[1], clip.shape[-1] / rate) * rate)
        outside = torch.ones(clip.shape[-1], dtype=torch.bool)
        outside[start:stop] = False
        before, after = take[0].double().numpy(), clip[0].double().numpy()
        # The ends of the part are cross-faded with the recording, which would be heard there.
        inner = slice(start + round(SEAM * rate), stop - round(SEAM * rate))
        pitch = has_pitch(after[inner], before[inner], note.pitch, rate)
        instrument = classifier.hear([after])[0] == note.instrument
        equal = torch.equal(clip[:, outside], take[:, outside])
        right.append([equal, has_clicks(after, [before], rate), pitch, instrument, pitch and instrument])
    names = ("kept samples equal", "clicks", "pitch of the part", "instrument of the whole", "both")
    return dict(zip(names, np.mean(right, axis=0).tolist()))


def looped(model: DiffusionModel, notes: Sequence[Recording]) -> dict[str, float]:
    """Shares of loops, of lengths that are no whole number of latent frames."""
    rate, right = model.sample_rate, []
    for i, note in enumerate(notes):
        seconds = 60 / (90 + i)
        item = [{"prompt": note.caption}]
        (loop,) = generate(model, item, seeds=i, seconds=seconds, loop=True, **SETTINGS)
        (plain,) = generate(model, item, seeds=i, **SETTINGS)
        samples = loop[0].double().numpy()
        cut = plain[0, : len(samples)].double().numpy()
        exact = len(samples) == round(seconds * rate)
        right.append([exact, *(has_clicks(np.roll(s, len(s) // 2), [s], rate) for s in (samples, cut))])
    names = ("exact number of samples", "clicks at the seam", "clicks of a clip that is cut")
    return dict(zip(names, np.mean(right, axis=0).tolist()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt-path", required=True)
    parser.add_argument("--data", type=Path, default=Path("data/general_midi"))
    parser.add_argument("--count", type=int, default=97, help="notes of each kind of edit")
    parser.add_argument("--out", type=Path, help="file for all figures, JSON")
    args = parser.parse_args()
    model, _ = load_model(args.ckpt_path)
    assert isinstance(model, DiffusionModel)
    others, val = (recordings(args.data / name, model.sample_rate) for name in ("others", "val"))
    names = [r.instrument for r in others]
    classifier = learn_instruments([r.samples for r in others], names, sample_rate=model.sample_rate)
    # In steps through the list, which is sorted by instrument.
    notes = [val[i] for i in np.linspace(0, len(val) - 1, min(args.count, len(val))).round().astype(int)]
    figures = {}
    for name, part in PARTS.items():
        figures[name] = inpainted(model, notes, classifier, part)
        print(f"{name}: {', '.join(f'{k} {v:.0%}' for k, v in figures[name].items())}", flush=True)
    figures["loops"] = looped(model, notes[::3])
    print(f"loops: {', '.join(f'{k} {v:.0%}' for k, v in figures['loops'].items())}", flush=True)
    if args.out is not None:
        write_json(args.out, figures)


if __name__ == "__main__":
    main()
