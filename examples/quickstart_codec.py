"""Train the autoencoder that comes with the quickstart: model_configs/quickstart/codec.safetensors.

    python examples/quickstart_codec.py --out runs/codec.safetensors
    python examples/quickstart_codec.py --init runs/codec.safetensors --fixed-encoder --out runs/2.safetensors

It learns spectrograms of the synthetic collection, of another seed than the quickstart trains on and with
every pair of timbre and pitch. Three things make its latents easy to generate:

- They are standardised, and noise is added to them in training: what the decoder can read in spite of it, a
  diffusion model can learn to write.
- They are drawn towards a sum of one term that depends on the pitch and one that depends on all else
  (`SumOfTerms`), and the decoder has to read that sum, too. So a model that knows a pitch and a timbre from
  other notes knows both terms of a note that it never heard.
- The decoder's last layer multiplies (`head: "product"`), as spectra do: a comb times an envelope.

The second command goes on with the decoder alone, so that models of the latents stay valid.
docs/quickstart.md says what this keeps of a sound.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from stable_audio import create_model_from_config, load_model
from stable_audio.checkpoints.saving import export
from stable_audio.data.synthetic import LOWEST_PITCH, NUM_PITCHES, ClipDescription, SyntheticDataset
from stable_audio.data.synthetic.rendering import VIBRATO_RATE, VIBRATO_START
from stable_audio.data.synthetic.sounds import SOUNDS
from stable_audio.inference.devices import best_device

CONFIG = Path(__file__).resolve().parent.parent / "model_configs/quickstart/codec.json"
SEED = 7
NOISES = frozenset({"snare", "clap", "hi-hat", "cymbal", "noise sweep"})
NOISE_WEIGHT = 0.2
"""What no code can tell of a noise, its single bins, counts less."""

PATCHES = 5
"""Latent frames of each piece that a step trains on: short ones show more notes in the same time."""

LATENT_NOISE = 0.45
"""Greatest standard deviation of the noise on the latents, whose own is 1."""

CHANGE_WEIGHT = 0.5
"""Of errors in the change from frame to frame, which are heard as flutter."""

SUM_WEIGHT = 0.2
"""Of the distance of the latents from a sum of terms."""

EMA_DECAY = 0.998

FEATURES = 12
"""Numbers that describe a latent frame besides timbre and pitch."""

log = logging.getLogger("quickstart_codec")


@dataclass(frozen=True)
class Pieces:
    """A batch of pieces of clips.

    Attributes:
        values: latents of the pretransform (count, bins, frames).
        weights: weight of each piece in the loss (count, 1, 1).
        pitches: share of each pitch in each latent frame (count, PATCHES, pitches).
        features: all else that is known of it (count, PATCHES, features).
    """

    values: Tensor
    weights: Tensor
    pitches: Tensor
    features: Tensor

    def to(self, device: torch.device) -> Pieces:
        return Pieces(*(t.to(device) for t in (self.values, self.weights, self.pitches, self.features)))


@dataclass(frozen=True)
class Clips:
    """All clips, as `Pieces` of their whole length, the values in half precision.

    Attributes:
        patches: latent frames of each clip up to the end of its sound.
        onset_share: share of the pieces that are taken from the very beginning of a clip, beside those that
            begin there by chance.
    """

    whole: Pieces
    patches: Tensor
    onset_share: float = 0.0

    def pieces(self, count: int, patch: int) -> Pieces:
        """`count` random pieces of PATCHES latent frames, of `patch` frames each."""
        values = self.whole.values
        clips = torch.randint(len(values), (count,))
        longest = values.shape[-1] // patch - PATCHES + 1
        begins = (torch.rand(count) * (self.patches[clips] - PATCHES // 2).clamp(1, longest)).long()
        if self.onset_share:
            begins = torch.where(torch.rand(count) < self.onset_share, 0, begins)
        frames = patch * begins[:, None] + torch.arange(PATCHES * patch)
        bins = torch.arange(values.shape[1])[None, :, None]
        coarse = (clips[:, None], begins[:, None] + torch.arange(PATCHES))
        return Pieces(
            values[clips[:, None, None], bins, frames[:, None, :]].float(),
            self.whole.weights[clips],
            self.whole.pitches[coarse],
            self.whole.features[coarse],
        )


def known_of(clip: ClipDescription, *, seconds: float, count: int) -> tuple[Tensor, Tensor]:
    """Pitches (count, NUM_PITCHES) and features (count, timbres + FEATURES) of frames of `seconds`."""
    begins = seconds * torch.arange(count)
    middles = begins + seconds / 2
    shares = torch.stack(
        [
            (torch.clamp(begins + seconds, max=v.onset + v.duration) - begins.clamp(min=v.onset)) / seconds
            for v in clip.voices
        ]
    ).clamp(0, 1)
    pitches = torch.zeros(count, NUM_PITCHES)
    for pitch, share in zip(clip.pitches, shares):
        pitches[:, pitch - LOWEST_PITCH] += share
    first, last = clip.voices[0], clip.voices[-1]
    second = middles >= last.onset
    since = middles - torch.where(second, last.onset, first.onset)
    left = torch.where(second, last.duration, first.duration) - since
    sounding = shares.sum(0)
    angle = 2 * math.pi * VIBRATO_RATE * (since - VIBRATO_START)
    swing = sounding * (since > VIBRATO_START) * float(clip.vibrato)
    features = [
        since,
        torch.exp(-since / 0.05),
        torch.exp(-since / 0.25),
        5 * left.clamp(-0.2, 0.2),
        left,
        sounding,
        2 * math.log10(first.loudness) * sounding,
        first.brightness * sounding,
        first.damping * sounding,
        angle.sin() * swing,
        angle.cos() * swing,
        swing,
    ]
    timbre = torch.zeros(count, len(SOUNDS))
    timbre[:, list(SOUNDS).index(clip.timbre)] = 1
    return pitches, torch.cat([timbre, torch.stack(features, dim=1)], dim=1)


class SumOfTerms(nn.Module):
    """Latents as one vector for the pitch plus a function of all else -> (count, latent_dim, frames)."""

    def __init__(self, latent_dim: int, *, pitches: int, features: int, width: int = 256) -> None:
        super().__init__()
        self.pitch = nn.Linear(pitches, latent_dim, bias=False)
        widths = [features, width, width, width]
        layers = [nn.Sequential(nn.Linear(a, b), nn.SiLU()) for a, b in itertools.pairwise(widths)]
        self.rest = nn.Sequential(*layers, nn.Linear(width, latent_dim))

    def forward(self, pieces: Pieces) -> Tensor:
        return (self.pitch(pieces.pitches) + self.rest(pieces.features)).mT


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


def render(config: dict, pretransform: nn.Module, clips: int, patch: int) -> Clips:
    """Spectrograms of clips that the quickstart does not train on, and what is known of them."""
    rate, size = config["sample_rate"], config["sample_size"]
    dataset = SyntheticDataset(
        sample_rate=rate,
        sample_size=size,
        num_clips=clips,
        seed=SEED,
        held_out_share=0.0,
        detune_cents=3.0,
        cache_megabytes=0,
    )
    hop = patch * pretransform.downsampling_ratio
    values, patches, weights, known = [], [], [], []
    for index in range(clips):
        audio, metadata = dataset[index]
        values.append(pretransform.encode(audio[None])[0].half())
        patches.append(int(metadata["seconds_total"] * rate / hop) + 1)
        weights.append(NOISE_WEIGHT if metadata["timbre"] in NOISES else 1.0)
        known.append(known_of(dataset.clip(index), seconds=hop / rate, count=size // hop))
    return gathered(values, patches, weights, known, patch=patch)


def gathered(
    values: list[Tensor],
    patches: list[int],
    weights: list[float],
    known: list[tuple[Tensor, Tensor]],
    *,
    patch: int,
    onset_share: float = 0.0,
) -> Clips:
    """Clips of lists of values (bins, frames), latent frames, weights, and (pitches, features)."""
    pitches, features = (torch.stack(part) for part in zip(*known))
    levels = torch.stack([level(v, patch * n) for v, n in zip(values, patches)])
    # Errors of quiet clips count as much as they are heard, not as little as they are small.
    each = torch.tensor(weights) * (levels.mean() / levels).clamp(0.3, 4) ** 0.7
    each = (each / each.mean()).view(-1, 1, 1)
    whole = Pieces(torch.stack(values), each, pitches, features)
    return Clips(whole, torch.tensor(patches), onset_share)


def level(values: Tensor, frames: int) -> Tensor:
    """Mean square above silence."""
    return (values[:, :frames].float() - values.float().min()).square().mean()


def train(model: nn.Module, terms: nn.Module, batches: Iterator[Pieces], *, steps: int, lr: float) -> None:
    """Train what requires gradients on errors of the values, of their change, and of the sum of terms.

    `model` has an encoder and a decoder; it ends with averaged weights.
    """
    parameters = [p for p in [*model.parameters(), *terms.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
    averages = copy.deepcopy([p.detach() for p in parameters])
    total, began = 0.0, time.monotonic()
    for step, pieces in enumerate(itertools.islice(batches, steps), start=1):
        for group in optimizer.param_groups:
            group["lr"] = lr * max(1e-3, min(1, step / min(500, 0.1 * steps)) * (1 - step / steps))
        loss = step_loss(model, terms, pieces)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, 1 - min(EMA_DECAY, (1 + step) / (10 + step)))
        total += loss.item()
        if step % 200 == 0:
            log.info("step %d, loss %.5f, %.0f s", step, total / 200, time.monotonic() - began)
            total = 0.0
    with torch.no_grad():
        for parameter, average in zip(parameters, averages):
            parameter.copy_(average)


def step_loss(model: nn.Module, terms: nn.Module, pieces: Pieces) -> Tensor:
    """Loss of a batch; the decoder reads a point between the latents and the sum of terms, with noise."""
    latents, summed = model.encoder(pieces.values), terms(pieces)
    mixed = latents + torch.rand_like(latents[:, :1, :1]) * (summed - latents)
    deviation = LATENT_NOISE * torch.rand_like(latents[:, :1, :1])
    error = model.decoder(mixed + deviation * torch.randn_like(latents)) - pieces.values
    change = error.diff(dim=-1)
    weights = pieces.weights
    equal = weights.clamp(max=1)
    distance = (equal * (latents - summed).square()).mean() / equal.mean()
    values = (weights * error.square()).mean() + CHANGE_WEIGHT * (weights * change.square()).mean()
    return values + SUM_WEIGHT * distance


def learn(
    model: nn.Module, data: Clips, *, batch_size: int, steps: int, lr: float, fixed_encoder: bool
) -> nn.Module:
    """Train an autoencoder on pieces of clips; returns it on the CPU, its latents standardised."""
    device, patch = best_device(), model.encoder.downsampling_ratio
    batches = (data.pieces(batch_size, patch).to(device) for _ in itertools.count())
    known = {"pitches": data.whole.pitches.shape[-1], "features": data.whole.features.shape[-1]}
    model, terms = model.to(device).train(), SumOfTerms(model.encoder.latent_dim, **known).to(device)
    if fixed_encoder:
        model.encoder.requires_grad_(False)
        train(model, terms, batches, steps=steps, lr=lr)
    else:
        model.encoder = Standardised(model.encoder)
        train(model, terms, batches, steps=steps, lr=lr)
        model.encoder = model.encoder.fold()
    return model.cpu().eval()


def write(model: nn.Module, data: Clips, config: dict, out: Path) -> None:
    """The model in half precision, with the scale of its latents in its config."""
    config["model"]["latent_scale"] = measured_scale(model, data)
    out.parent.mkdir(parents=True, exist_ok=True)
    export(model, out, config=config, dtype=torch.float16)
    log.info("wrote %s, %.1f MB", out, out.stat().st_size / 1e6)


def add_training_options(parser: argparse.ArgumentParser, *, steps: int) -> None:
    """What a training of an autoencoder asks for."""
    parser.add_argument("--init", type=Path, help="weights to go on from")
    parser.add_argument("--fixed-encoder", action="store_true", help="train the decoder alone")
    parser.add_argument("--steps", type=int, default=steps, help=f"training steps (default: {steps})")
    parser.add_argument("--batch-size", type=int, default=256, help="pieces of a step (default: 256)")
    parser.add_argument("--lr", type=float, default=1e-3, help="greatest learning rate (default: 0.001)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/codec.safetensors"))
    parser.add_argument("--clips", type=int, default=12_000, help="clips to render (default: 12000)")
    add_training_options(parser, steps=20_000)
    args = parser.parse_args()
    if args.fixed_encoder and args.init is None:
        parser.error("--fixed-encoder needs --init: an untrained encoder keeps nothing")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    config = json.loads(CONFIG.read_text(encoding="utf-8"))
    model = create_model_from_config(config) if args.init is None else load_model(args.init)[0]
    data = render(config, model.pretransform, args.clips, model.encoder.downsampling_ratio)
    log.info("rendered %d clips", args.clips)
    options = {"batch_size": args.batch_size, "steps": args.steps, "lr": args.lr}
    model = learn(model, data, fixed_encoder=args.fixed_encoder, **options)
    write(model, data, config, args.out)


@torch.no_grad()
def measured_scale(model: nn.Module, data: Clips) -> float:
    """Standard deviation of the latents of whole clips."""
    latents = torch.cat([model.encoder(part.float()) for part in data.whole.values[:500].split(50)])
    return round(latents.std().item(), 4)


if __name__ == "__main__":
    main()
