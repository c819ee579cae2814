"""Train the autoencoder that comes with the quickstart: model_configs/quickstart/codec.safetensors.

    python examples/quickstart_codec.py --out runs/codec.safetensors
    python examples/quickstart_codec.py --init runs/codec.safetensors --fixed-encoder --out runs/2.safetensors

It learns spectrograms of the synthetic collection, of another seed than the quickstart trains on and with
every pair of timbre and pitch. Its latents are standardised, and noise is added to them in training: what the
decoder can read in spite of it, a diffusion model can learn to write. The second command goes on with the
decoder alone, so that models of the latents stay valid. docs/quickstart.md says what this keeps of a sound.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from stable_audio import create_model_from_config, load_model
from stable_audio.checkpoints.saving import export
from stable_audio.data.synthetic import SyntheticDataset
from stable_audio.inference.devices import best_device

CONFIG = Path(__file__).resolve().parent.parent / "model_configs/quickstart/codec.json"
SEED = 7
NOISES = frozenset({"snare", "clap", "hi-hat", "cymbal", "noise sweep"})
NOISE_WEIGHT = 0.2
"""What no code can tell of a noise, its single bins, counts less."""

PATCHES = 5
"""Latent frames of each piece that a step trains on: short ones show more notes in the same time."""

LATENT_NOISE = 0.2
"""Greatest standard deviation of the noise on the latents, whose own is 1."""

CHANGE_WEIGHT = 0.5
"""Of errors in the change from frame to frame, which are heard as flutter."""

log = logging.getLogger("quickstart_codec")


@dataclass(frozen=True)
class Spectrograms:
    """Latents of the pretransform of all clips.

    Attributes:
        values: (clips, bins, frames), in half precision.
        patches: latent frames of each clip up to the end of its sound.
        weights: weight of each clip in the loss.
    """

    values: Tensor
    patches: Tensor
    weights: Tensor

    def pieces(self, count: int, patch: int) -> tuple[Tensor, Tensor]:
        """`count` random pieces (count, bins, PATCHES * patch) and their weights (count, 1, 1)."""
        clips = torch.randint(len(self.values), (count,))
        longest = self.values.shape[-1] // patch - PATCHES + 1
        begins = torch.rand(count) * (self.patches[clips] - PATCHES // 2).clamp(1, longest)
        frames = patch * begins.long()[:, None] + torch.arange(PATCHES * patch)
        bins = torch.arange(self.values.shape[1])[None, :, None]
        pieces = self.values[clips[:, None, None], bins, frames[:, None, :]]
        return pieces.float(), self.weights[clips].view(-1, 1, 1)


class Standardised(nn.Module):
    """An encoder whose latents have mean 0 and deviation 1, by batch norm, until `fold`."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.norm = nn.BatchNorm1d(encoder.latent_dim, affine=False, momentum=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.encoder(x))

    @torch.no_grad()
    def fold(self) -> nn.Module:
        """The encoder with the norm in its last layer."""
        last, mean, variance = self.encoder.layers[-1], self.norm.running_mean, self.norm.running_var
        scale = (variance + self.norm.eps).rsqrt()
        last.bias.copy_((last.bias - mean) * scale)
        last.weight.mul_(scale.view(-1, 1, 1))
        return self.encoder


def render(config: dict, pretransform: nn.Module, clips: int, patch: int) -> Spectrograms:
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
    values, patches, weights = [], [], []
    for index in range(clips):
        audio, metadata = dataset[index]
        values.append(pretransform.encode(audio[None])[0].half())
        samples = metadata["seconds_total"] * config["sample_rate"]
        patches.append(int(samples / pretransform.downsampling_ratio / patch) + 1)
        weights.append(NOISE_WEIGHT if metadata["timbre"] in NOISES else 1.0)
    return Spectrograms(torch.stack(values), torch.tensor(patches), torch.tensor(weights))


def train(
    encoder: nn.Module, decoder: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], *, steps: int, lr: float
) -> None:
    """Train what requires gradients on squared errors of the values and of their change along time."""
    parameters = [p for p in [*encoder.parameters(), *decoder.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.02)
    total, began = 0.0, time.monotonic()
    for step, (values, weights) in enumerate(itertools.islice(batches, steps), start=1):
        latents = encoder(values)
        deviation = LATENT_NOISE * torch.rand_like(latents[:, :1, :1])
        error = decoder(latents + deviation * torch.randn_like(latents)) - values
        change = error.diff(dim=-1)
        loss = (weights * error.square()).mean() + CHANGE_WEIGHT * (weights * change.square()).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
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
    parser.add_argument("--init", type=Path, help="weights to go on from")
    parser.add_argument("--fixed-encoder", action="store_true", help="train the decoder alone")
    parser.add_argument("--clips", type=int, default=8000, help="clips to render (default: 8000)")
    parser.add_argument("--steps", type=int, default=10_000, help="training steps (default: 10000)")
    parser.add_argument("--batch-size", type=int, default=64, help="pieces of a step (default: 64)")
    parser.add_argument("--lr", type=float, default=1e-3, help="greatest learning rate (default: 0.001)")
    args = parser.parse_args()
    if args.fixed_encoder and args.init is None:
        parser.error("--fixed-encoder needs --init: an untrained encoder keeps nothing")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    config, device = json.loads(CONFIG.read_text(encoding="utf-8")), best_device()
    model = create_model_from_config(config) if args.init is None else load_model(args.init)[0]
    patch = model.encoder.downsampling_ratio
    data = render(config, model.pretransform, args.clips, patch)
    log.info("rendered %d clips", args.clips)
    batches = ([t.to(device) for t in data.pieces(args.batch_size, patch)] for _ in itertools.count())
    model = model.to(device).train()
    if args.fixed_encoder:
        train(model.encoder.requires_grad_(False), model.decoder, batches, steps=args.steps, lr=args.lr)
    else:
        encoder = Standardised(model.encoder)
        train(encoder, model.decoder, batches, steps=args.steps, lr=args.lr)
        encoder.fold()
    model = model.cpu().eval()
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
