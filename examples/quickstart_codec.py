"""Train the autoencoder that comes with the quickstart: model_configs/quickstart/codec.safetensors.

    python examples/quickstart_codec.py --out runs/codec.safetensors

Its encoder and the straight part of its decoder are the principal components of all patches of four frames
of the synthetic collection's spectrograms, found in closed form. A small network then learns to add what is
missing. The spectrograms are those of another seed than the quickstart trains on, with every pair of timbre
and pitch. docs/quickstart.md says what this representation keeps.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio import create_model_from_config
from stable_audio.checkpoints.saving import export
from stable_audio.data.synthetic import SyntheticDataset

CONFIG = Path(__file__).resolve().parent.parent / "model_configs/quickstart/codec.json"
SEED = 7
NOISES = frozenset({"snare", "clap", "hi-hat", "cymbal", "noise sweep"})
NOISE_WEIGHT = 0.2
"""What no code can tell of a noise, its single bins, counts less."""

FRAMES = 16
"""Of each piece that a step trains on: short ones show more notes in the same time."""

LATENT_NOISE = 0.02
"""Standard deviation of noise on the latents, whose own is 1, so that small errors of them stay small."""

log = logging.getLogger("quickstart_codec")


@dataclass(frozen=True)
class Spectrograms:
    """Latents of the pretransform of all clips.

    Attributes:
        values: (clips, bins, frames), in half precision.
        frames: frames of each clip up to the end of its sound.
        weights: weight of each clip in the loss.
    """

    values: Tensor
    frames: Tensor
    weights: Tensor

    def pieces(self, count: int) -> tuple[Tensor, Tensor]:
        """`count` random pieces (count, bins, FRAMES) and their weights (count, 1, 1)."""
        clips = torch.randint(len(self.values), (count,))
        last = (self.frames[clips] - FRAMES // 3).clamp(1, self.values.shape[-1] - FRAMES + 1)
        begins = (torch.rand(count) * last).long()
        pieces = [self.values[c, :, b : b + FRAMES] for c, b in zip(clips.tolist(), begins.tolist())]
        return torch.stack(pieces).float(), self.weights[clips].view(-1, 1, 1)


def render(config: dict, pretransform: nn.Module, clips: int) -> Spectrograms:
    """Spectrograms of clips that the quickstart does not train on."""
    dataset = SyntheticDataset(
        sample_rate=config["sample_rate"],
        sample_size=config["sample_size"],
        num_clips=clips,
        seed=SEED,
        held_out_share=0.0,
        detune_cents=3.0,
        cache_megabytes=0,
    )
    values, frames, weights = [], [], []
    for index in range(clips):
        audio, metadata = dataset[index]
        values.append(pretransform.encode(audio[None])[0].half())
        samples = metadata["seconds_total"] * config["sample_rate"]
        frames.append(int(samples / pretransform.downsampling_ratio) + 2)
        weights.append(NOISE_WEIGHT if metadata["timbre"] in NOISES else 1.0)
    return Spectrograms(torch.stack(values), torch.tensor(frames), torch.tensor(weights))


def principal_components(data: Spectrograms, patch: int, count: int, clips: int) -> tuple[Tensor, Tensor]:
    """Variances (count,) and directions (bins*patch, count) of patches, weighted, around the origin."""
    bins = data.values.shape[1]
    sums, patches = torch.zeros(bins * patch, bins * patch, dtype=torch.float64), 0
    for first in range(0, min(clips, len(data.values)), 250):
        part = data.values[first : first + 250].float()
        rows = (part * data.weights[first : first + 250].sqrt().view(-1, 1, 1)).unflatten(2, (-1, patch))
        sounding = torch.arange(rows.shape[2]) * patch < data.frames[first : first + 250, None]
        flat = rows.permute(0, 2, 1, 3).flatten(2)[sounding]
        sums += (flat.mT @ flat).double()
        patches += len(flat)
    variances, directions = torch.linalg.eigh((sums / patches).float())
    return variances.flip(0)[:count], directions.flip(1)[:, :count]


def set_components(model: nn.Module, variances: Tensor, directions: Tensor) -> None:
    """Give the encoder and the decoder's shortcut the components.

    Each latent is divided by the square root of its deviation. Divided by all of it, the small ones would be
    as hard to generate as the large ones; undivided, the large ones would hide the rest.
    """
    deviations = variances.sqrt()
    gains = deviations**-0.5
    gains = gains / (gains * deviations).square().mean().sqrt()
    encoder, shortcut = model.encoder.project, model.decoder.shortcut.project
    bins, patch = encoder.weight.shape[1:]
    with torch.no_grad():
        encoder.weight.copy_((directions * gains).mT.unflatten(1, (bins, patch)))
        shortcut.weight.copy_((directions / gains).mT.unflatten(1, (bins, patch)))
        encoder.bias.zero_()
        shortcut.bias.zero_()
        # The network begins with little to say.
        model.decoder.layers[-1].weight.mul_(0.1)
        model.decoder.layers[-1].bias.zero_()


def train(model: nn.Module, data: Spectrograms, *, steps: int, lr: float = 2e-3, batch: int = 64) -> None:
    """Train the decoder, and the encoder a tenth as fast, on squared errors of the spectrogram's values."""
    straight = [*model.encoder.parameters(), *model.decoder.shortcut.parameters()]
    groups = [
        {"params": list(model.decoder.layers.parameters()), "lr": lr},
        {"params": straight, "lr": lr / 10},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [lr, lr / 10], total_steps=steps, pct_start=0.05
    )
    total, began = 0.0, time.monotonic()
    for step in range(1, steps + 1):
        values, weights = data.pieces(batch)
        latents = model.encoder(values)
        rebuilt = model.decoder(latents + LATENT_NOISE * torch.randn_like(latents))
        loss = (weights * F.mse_loss(rebuilt, values, reduction="none")).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        total += loss.item()
        if step % 200 == 0:
            log.info("step %d, loss %.5f, %.0f s", step, total / 200, time.monotonic() - began)
            total = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/codec.safetensors"))
    parser.add_argument("--clips", type=int, default=9000, help="clips to render (default: 9000)")
    parser.add_argument("--steps", type=int, default=8000, help="training steps (default: 8000)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    config = json.loads(CONFIG.read_text(encoding="utf-8"))
    model = create_model_from_config(config)
    data = render(config, model.pretransform, args.clips)
    log.info("rendered %d clips", args.clips)
    patch = model.encoder.downsampling_ratio
    set_components(model, *principal_components(data, patch, model.latent_dim, clips=5000))
    log.info("principal components: done")
    train(model, data, steps=args.steps)
    config["model"]["latent_scale"] = measured_scale(model, data)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    export(model, args.out, config=config, dtype=torch.float16)
    log.info("wrote %s, %.1f MB", args.out, args.out.stat().st_size / 1e6)


@torch.no_grad()
def measured_scale(model: nn.Module, data: Spectrograms) -> float:
    """Standard deviation of the latents of whole clips."""
    latents = torch.cat([model.encoder(part.float()) for part in data.values[:500].split(50)])
    return round(latents.std().item(), 4)


if __name__ == "__main__":
    main()
