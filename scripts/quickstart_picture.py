"""Draw docs/quickstart.png: what the quickstart's autoencoder and its model keep of a few sounds.

    python scripts/quickstart_picture.py --ckpt-path runs/demo/quickstart/last.safetensors

A row per sound: as rendered, through the spectrogram alone, through the autoencoder, and as the model
generates it from the caption.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from stable_audio import generate, load_model
from stable_audio.data.synthetic import SyntheticDataset

PROMPTS = ("a sawtooth wave playing A3", "a bell, note C4", "a marimba at B4", "a crash cymbal")
TIMBRES = (("sawtooth", 57), ("bell", 60), ("marimba", 71), ("cymbal", None))
COLUMNS = ("rendered", "spectrogram and back", "autoencoder and back", "generated from the caption")
RANGE_DB = 70


def original(model: torch.nn.Module, timbre: str, midi: int | None) -> tuple[Tensor, float]:
    """The first clip (1 1 n) of medium loudness with this sound, and its seconds."""
    dataset = SyntheticDataset(
        sample_rate=model.sample_rate, sample_size=model.sample_size, words=False, held_out_share=0.0
    )
    index = next(
        i
        for i in range(len(dataset))
        if dataset.clip(i).timbre == timbre and (midi is None or dataset.clip(i).pitches == (midi,))
    )
    audio, metadata = dataset[index]
    return audio[None], metadata["seconds_total"]


def levels(audio: Tensor) -> np.ndarray:
    """(1 1 n) -> decibels (bins, frames) below the loudest."""
    spectrum = torch.stft(audio[0, 0], 1024, 128, window=torch.hann_window(1024), return_complex=True).abs()
    return (20 * torch.log10(spectrum.clamp(min=1e-6) / spectrum.max())).numpy()


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt-path", required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/quickstart.png"))
    args = parser.parse_args()
    model, _ = load_model(args.ckpt_path)
    codec = model.pretransform
    magnitudes = codec.model.pretransform
    figure, axes = plt.subplots(len(TIMBRES), len(COLUMNS), figsize=(13, 9), sharex=True, sharey=True)
    for row, ((timbre, midi), prompt) in enumerate(zip(TIMBRES, PROMPTS)):
        audio, seconds = original(model, timbre, midi)
        clips = [
            audio,
            magnitudes.decode(magnitudes.encode(audio)),
            codec.decode(codec.encode(audio)),
            generate(model, [{"prompt": prompt, "seconds_total": seconds}], seeds=0, steps=24, cfg_scale=1.5),
        ]
        for axis, clip, title in zip(axes[row], clips, COLUMNS):
            extent = (0, clip.shape[-1] / model.sample_rate, 0, model.sample_rate / 2000)
            axis.imshow(
                levels(clip.cpu()),
                origin="lower",
                aspect="auto",
                extent=extent,
                vmin=-RANGE_DB,
                vmax=0,
                cmap="magma",
            )
            if row == 0:
                axis.set_title(title)
        axes[row][0].set_ylabel(f"{prompt}\nkHz", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(args.out, dpi=80)


if __name__ == "__main__":
    main()
