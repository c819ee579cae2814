"""Judge a model of the General MIDI example: are instrument and pitch of its notes the ones asked for?

    python examples/general_midi_judge.py --ckpt-path runs/general_midi

A classifier (stable_audio/evaluation/instruments.py) learns the instruments from the recorded notes in
`others`, and hears every combination of instrument, note and loudness in `val`: as recorded, through the
model's autoencoder, and as the model generates it from the caption; without conditioning and without
training, too.
The exit status is 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from general_midi import PROGRAMS, captioned
from torch import Tensor

from stable_audio import create_model_from_config, generate, load_model
from stable_audio.audio.json_files import write_json
from stable_audio.evaluation.instruments import (
    InstrumentClassifier,
    InstrumentPanel,
    has_pitch,
    learn_instruments,
)
from stable_audio.inference.devices import best_device
from stable_audio.inference.generation.coding import decode_each

GOALS = {"recorded": 0.95, "trained": 0.8}
"""Least share of right instruments; of right pitches, too, for what is trained."""

CHANCE = {"instrument": 1 / len(PROGRAMS) + 0.1, "pitch": 0.1}
"""Greatest share without conditioning or training: chance and three standard deviations of 97 draws."""


@dataclass(frozen=True)
class Recording:
    """A wav (n,) and what its caption says."""

    samples: np.ndarray
    caption: str
    instrument: str
    pitch: int


def recordings(folder: Path, sample_rate: int) -> list[Recording]:
    """All wavs of a folder, by name."""
    notes = []
    for file in sorted(folder.glob("*.wav")):
        samples, found = soundfile.read(file)
        if found != sample_rate:
            sys.exit(f"{file} has {found} Hz, the model {sample_rate} Hz: render the notes at that rate")
        caption = file.with_suffix(".txt").read_text().strip()
        notes.append(Recording(samples, caption, *captioned(caption)))
    if not notes:
        sys.exit(f"no wavs in {folder}: python examples/general_midi.py renders them")
    return notes


@dataclass(frozen=True)
class Listener:
    """Hears the notes that are asked for."""

    classifier: InstrumentClassifier | InstrumentPanel
    asked: Sequence[Recording]

    def hear(self, label: str, clips: Sequence[np.ndarray]) -> dict[str, Any]:
        """Print and return the shares of right instruments and pitches; clips (n,), one for each asked."""
        names, rate = self.classifier.hear(clips), self.classifier.sample_rate
        pitches = [has_pitch(c, r.samples, r.pitch, rate) for c, r in zip(clips, self.asked)]
        right = [name == r.instrument for name, r in zip(names, self.asked)]
        mistakes: dict[str, int] = {}
        for name, note in zip(names, self.asked):
            if name != note.instrument:
                key = f"{note.instrument} heard as {name}"
                mistakes[key] = mistakes.get(key, 0) + 1
        shares = {"instrument": float(np.mean(right)), "pitch": float(np.mean(pitches))}
        line = f"instrument {shares['instrument']:6.1%}, pitch {shares['pitch']:6.1%} of {len(clips)} notes"
        print(f"{label:18} {line}", flush=True)
        per_clip = [
            {"prompt": r.caption, "heard_as": n, "pitch": p} for r, n, p in zip(self.asked, names, pitches)
        ]
        return {**shares, "mistakes": mistakes, "per_clip": per_clip}


def missed(figures: dict[str, dict[str, Any]]) -> list[str]:
    """One phrase for each goal that is missed."""
    phrases = []
    for label, shares in figures.items():
        if label in GOALS and shares["instrument"] < GOALS[label]:
            phrases.append(f"instrument of {label} {shares['instrument']:.1%}, not {GOALS[label]:.1%}")
        if label == "trained" and shares["pitch"] < GOALS[label]:
            phrases.append(f"pitch of {label} {shares['pitch']:.1%}, not {GOALS[label]:.1%}")
        if label in ("null conditioning", "untrained"):
            phrases += [
                f"{name} of {label} {shares[name]:.1%}, more than {most:.1%}"
                for name, most in CHANCE.items()
                if shares[name] > most
            ]
    return phrases


@torch.inference_mode()
def back(model: torch.nn.Module, asked: Sequence[Recording]) -> Tensor:
    """The recordings through the model's pretransform (k 1 n)."""
    size = model.sample_size
    whole = np.stack([np.pad(r.samples[:size], (0, max(0, size - len(r.samples)))) for r in asked])
    clips = torch.from_numpy(whole).float()[:, None].to(model.device)
    return decode_each(model, torch.cat([model.pretransform.encode(clip) for clip in clips.split(1)]))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt-path", required=True)
    parser.add_argument("--data", type=Path, default=Path("data/general_midi"))
    parser.add_argument("--cfg-scale", type=float, default=1.5)
    parser.add_argument("--sampling-steps", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first note")
    parser.add_argument("--out", type=Path, help="file for all figures, JSON")
    args = parser.parse_args()
    model, config = load_model(args.ckpt_path, device=best_device())
    rate = model.sample_rate
    others, asked = (recordings(args.data / name, rate) for name in ("others", "val"))
    names = [r.instrument for r in others]
    listener = Listener(learn_instruments([r.samples for r in others], names, sample_rate=rate), asked)
    metadata = [{"prompt": r.caption} for r in asked]

    def generated(model: torch.nn.Module, cfg_scale: float) -> Tensor:
        steps, size = args.sampling_steps, 42
        return generate(model, metadata, seeds=args.seed, steps=steps, cfg_scale=cfg_scale, batch_size=size)

    def hear(label: str, clips: Tensor) -> None:
        figures[label] = listener.hear(label, list(clips[:, 0].double().cpu().numpy()))

    figures = {"recorded": listener.hear("recorded", [r.samples for r in asked])}
    hear("there and back", back(model, asked))
    hear("trained", generated(model, args.cfg_scale))
    # With weight 0, guidance returns the unconditional branch alone.
    hear("null conditioning", generated(model, 0.0))
    torch.manual_seed(args.seed)
    untrained = create_model_from_config(config).to(model.device).eval()
    untrained.pretransform = model.pretransform
    hear("untrained", generated(untrained, args.cfg_scale))
    for mistake, count in figures["trained"]["mistakes"].items():
        print(f"  {mistake}: {count}")
    if args.out is not None:
        write_json(args.out, figures)
    phrases = missed(figures)
    print("\n".join(f"missed: {phrase}" for phrase in phrases) or "all goals reached")
    return 1 if phrases else 0


if __name__ == "__main__":
    sys.exit(main())
