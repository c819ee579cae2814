"""Train the autoencoder of the General MIDI example: model_configs/examples/general_midi_codec.safetensors.

    python examples/general_midi.py
    python examples/general_midi_codec.py --init model_configs/quickstart/codec.safetensors

It goes on from the quickstart's autoencoder, which knows only synthetic timbres, by the same training
(examples/quickstart_codec.py): noise on the latents, and a sum of a term of the pitch and one of all else.
It learns from the notes of `train` and `others`; what is in `val` it never hears.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import numpy as np
import soundfile
import torch
from general_midi import GATE, LOUDNESS, OTHERS, PROGRAMS, captioned
from quickstart_codec import CONFIG, Clips, add_training_options, gathered, learn, write
from torch import Tensor, nn

from stable_audio import create_model_from_config, load_model

LOWEST, PITCHES = 21, 88
"""MIDI pitches of a piano."""

ONSET_SHARE = 0.4
"""Share of the pieces that are onsets, which tell a slap bass from a guitar: else one in fourteen is."""

log = logging.getLogger("general_midi_codec")


def known_of(
    instrument: str, pitch: int, velocity: int, held: float, *, seconds: float, count: int
) -> tuple[Tensor, Tensor]:
    """Pitches (count, PITCHES) and features (count, features) of latent frames of `seconds` of a note."""
    since = seconds * (torch.arange(count) + 0.5)
    left = held - since
    pitches = torch.zeros(count, PITCHES)
    pitches[:, pitch - LOWEST] = 1
    features = torch.zeros(count, len(PROGRAMS))
    features[:, list(PROGRAMS).index(instrument)] = 1
    struck = torch.full_like(since, velocity / 64 - 1)
    times = [since, torch.exp(-since / 0.05), torch.exp(-since / 0.25), 5 * left.clamp(-0.2, 0.2), left]
    return pitches, torch.cat([features, torch.stack([*times, struck], dim=1)], dim=1)


def strike(word: str) -> tuple[int, float]:
    """MIDI velocity and gate of the word before the instrument in a caption: of LOUDNESS, or a velocity."""
    return (LOUDNESS[word], GATE) if word in LOUDNESS else (int(word), dict(OTHERS)[int(word)])


def notes(folders: list[Path], config: dict, pretransform: nn.Module, patch: int) -> Clips:
    """The wavs of folders with captions of examples/general_midi.py."""
    rate, size = config["sample_rate"], config["sample_size"]
    hop = patch * pretransform.downsampling_ratio
    values, known = [], []
    for file in sorted(f for folder in folders for f in folder.glob("*.wav")):
        samples, found = soundfile.read(file, dtype="float32")
        if found != rate:
            raise SystemExit(
                f"{file} has {found} Hz, the autoencoder {rate} Hz: render the notes at that rate"
            )
        samples = np.pad(samples[:size], (0, max(0, size - len(samples))))
        values.append(pretransform.encode(torch.from_numpy(samples)[None, None])[0].half())
        caption = file.with_suffix(".txt").read_text()
        velocity, gate = strike(caption.split()[0])
        held = gate * size / rate
        known.append(known_of(*captioned(caption), velocity, held, seconds=hop / rate, count=size // hop))
    if not values:
        raise SystemExit(
            f"no wavs in {', '.join(map(str, folders))}: python examples/general_midi.py renders them"
        )
    whole, equal = [size // hop] * len(values), [1.0] * len(values)
    return gathered(values, whole, equal, known, patch=patch, onset_share=ONSET_SHARE)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data/general_midi"))
    parser.add_argument("--out", type=Path, default=Path("runs/general_midi_codec.safetensors"))
    add_training_options(parser, steps=4000)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    config = json.loads(CONFIG.read_text(encoding="utf-8"))
    model = create_model_from_config(config) if args.init is None else load_model(args.init)[0]
    folders = [args.data / "train", args.data / "others"]
    data = notes(folders, config, model.pretransform, model.encoder.downsampling_ratio)
    log.info("%d notes", len(data.patches))
    options = {"batch_size": args.batch_size, "steps": args.steps, "lr": args.lr}
    model = learn(model, data, fixed_encoder=args.fixed_encoder, **options)
    write(model, data, config, args.out)


if __name__ == "__main__":
    main()
