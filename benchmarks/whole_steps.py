"""Whole training steps with layers as they are, and in their plain form; time and memory, in one process.

python benchmarks/whole_steps.py [--frames 4096] [--channels 16 --samples 16384]

DAU1d: attention on the strides that a convolution leaves, for which torch keeps the n x m matrix, against
contiguous queries, keys and values. Oobleck: snake by automatic differentiation, which keeps four tensors,
against the function that keeps x. A step is forward, loss, backward and AdamW; both sides have the
same weights and the same input, and take turns.
"""

from __future__ import annotations

import argparse
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from autoencoder_train import build
from backbones import SETTINGS, inputs
from common import Work, describe_timing, new_parser, peak_memory, print_table, time_together
from torch import Tensor, nn

from stable_audio.backbones import BACKBONES
from stable_audio.backbones.dau1d import blocks
from stable_audio.pretransforms import activations


def main() -> None:
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    print(describe_timing(args.device, "float32"))
    print(f"batch {args.batch}, {args.frames} frames, {args.samples} samples of audio")
    sides = {
        "DAU1d": (dau1d_step(args), blocks, "fused_attention", plain_attention),
        "Oobleck alone": (oobleck_step(args, adversarial=False), activations, "snake", plain_snake),
        "Oobleck in a run": (oobleck_step(args, adversarial=True), activations, "snake", plain_snake),
    }
    works: dict[str, Work] = {}
    for network, (step, module, name, plain) in sides.items():
        works[f"{network}, plain"] = in_place_of(step, module, name, plain)
        works[network] = step
    times = time_together(works, rounds=args.rounds, device=args.device)
    memory = {name: peak_memory(work, args.device) / 2**20 for name, work in works.items()}
    rows = []
    for name, seconds in times.items():
        plain = name.split(", ")[0] + ", plain"
        rows.append((name, 1000 * seconds, seconds / times[plain], memory[name]))
    print_table(("", "ms", "of plain", "peak MiB"), rows)


def parse() -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--frames", type=int, default=4096, help="of the DAU1d's input")
    parser.add_argument("--config", help="model file of an Oobleck autoencoder with a training section")
    parser.add_argument("--channels", type=int, default=16, help="width of the small autoencoder")
    parser.add_argument("--samples", type=int, default=16_384, help="of the autoencoder's clip")
    return parser.parse_args()


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def plain_snake(x: Tensor, frequency: Tensor, inverse_amplitude: Tensor) -> Tensor:
    return x + inverse_amplitude * torch.sin(frequency * x).square()


def in_place_of(step: Work, module: ModuleType, name: str, plain: Work) -> Work:
    """`step` with another function behind a name of a module."""

    def work() -> None:
        with mock.patch.object(module, name, plain):
            step()

    return work


def optimised(network: nn.Module, loss: Any) -> Work:
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-6)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def dau1d_step(args: argparse.Namespace) -> Work:
    torch.manual_seed(0)
    kind, settings = SETTINGS["DAU1d"]
    network = BACKBONES[kind](**settings).to(args.device).train()
    x, t, cond = inputs(network, args, torch.float32)
    target = torch.randn_like(x)
    return optimised(network, lambda: F.mse_loss(network(x, t, cond), target))


def oobleck_step(args: argparse.Namespace, *, adversarial: bool) -> Work:
    """Encoder and decoder alone; or the generator's step after warm-up, with losses and discriminator."""
    module = build(args)
    audio = 0.1 * torch.randn(args.batch, module.model.io_channels, args.samples, device=args.device)
    if adversarial:
        return optimised(module.model, lambda: module.generator_step(audio, 2 * module.warmup_steps))
    encoder, decoder = module.model.encoder, module.model.decoder

    def loss() -> Tensor:
        return F.l1_loss(decoder(encoder(audio).chunk(2, dim=1)[0]), audio)

    return optimised(module.model, loss)


if __name__ == "__main__":
    main()
