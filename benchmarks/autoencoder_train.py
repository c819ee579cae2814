"""Training steps of an autoencoder, the generator's and the discriminator's apart, against their FLOPs.

python benchmarks/autoencoder_train.py [--config model_configs/autoencoders/stable_audio_2_0_vae.json]

The bound is the time that the same multiplications take as one large matrix product or convolution, whichever
is faster on this machine. `--dtype bfloat16` adds the steps under autocast, as `--precision bf16-mixed` runs
them (losses stay in float32), taking turns with those in float32, and compares the gradients of both. On the
CPU with one thread, times are those of the processor, which other programs on the machine disturb less.
Without `--config` a small stereo VAE is measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from common import (
    Work,
    convolution_rate,
    describe_timing,
    matmul_rate,
    new_parser,
    peak_memory,
    print_table,
    time_together,
)
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.training.autoencoder.module import AutoencoderTraining
from stable_audio.training.build import build_training


def main() -> None:
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    module = build(args)
    size = args.samples or module_size(args)
    audio = 0.1 * torch.randn(args.batch, module.model.io_channels, size, device=args.device)
    parameters = {"model": module.model, "discriminator": module.discriminator}
    sizes = ", ".join(f"{k} {millions(v)}M" for k, v in parameters.items() if v is not None)
    print(describe_timing(args.device, args.dtype))
    print(f"parameters: {sizes}; batch {args.batch} x {size} samples")
    mixed = (False, True) if args.dtype == "bfloat16" else (False,)
    if len(mixed) > 1:
        print_gradients(module, audio)
    works: dict[str, Work] = {}
    for half in mixed:
        works |= steps(module, audio, half)
    times = time_together(works, rounds=args.rounds, device=args.device)
    seconds = audio.shape[0] * size / load_config(config_of(args)).sample_rate
    rows = []
    for name, work in works.items():
        dtype = torch.bfloat16 if name.endswith(HALF) else torch.float32
        rates = (rate(args.device, dtype) for rate in (matmul_rate, convolution_rate))
        flops = count(work)
        rows.append(
            (
                name,
                1 / times[name],
                seconds / times[name],
                flops / 1e9,
                flops / max(rates) / times[name],
                peak_memory(work, args.device) / 2**20,
            )
        )
    print_table(("", "steps/s", "audio s/s", "GFLOP", "of bound", "peak MiB"), rows)


def parse() -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--config", help="model file of an autoencoder with a training section")
    parser.add_argument("--channels", type=int, default=16, help="width of the small VAE")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--samples", type=int, default=0, help="length of a clip; 0: the config's")
    return parser.parse_args()


def config_of(args: argparse.Namespace) -> Any:
    """The given file, or a small stereo VAE at 44.1 kHz with an EnCodec discriminator."""
    if args.config:
        return args.config
    shared = {"channels": args.channels, "c_mults": [1, 2, 4], "strides": [4, 4, 8], "use_snake": True}
    scales, hops = [1024, 256], [256, 64]
    spectral = {"fft_sizes": scales, "hop_sizes": hops, "win_lengths": scales}
    discriminator = {"filters": args.channels, "n_ffts": scales, "hop_lengths": hops, "win_lengths": scales}
    return {
        "model_type": "autoencoder",
        "sample_rate": 44_100,
        "sample_size": 16_384,
        "audio_channels": 2,
        "model": {
            "encoder": {"type": "oobleck", "config": {"in_channels": 2, "latent_dim": 64, **shared}},
            "decoder": {"type": "oobleck", "config": {"out_channels": 2, "latent_dim": 32, **shared}},
            "bottleneck": {"type": "vae"},
            "latent_dim": 32,
            "downsampling_ratio": 128,
            "io_channels": 2,
        },
        "training": {
            "learning_rate": 1e-4,
            "loss_configs": {
                "discriminator": {"type": "encodec", "config": discriminator},
                "spectral": {"config": spectral},
                "time": {"weights": {"l1": 1.0}},
            },
        },
    }


def build(args: argparse.Namespace) -> AutoencoderTraining:
    config = load_config(config_of(args))
    module = build_training(config, create_model_from_config(config))
    if not isinstance(module, AutoencoderTraining):
        raise SystemExit(f"{args.config}: model_type must be autoencoder, found {config.model_type}")
    return module.to(args.device).train()


def module_size(args: argparse.Namespace) -> int:
    return load_config(config_of(args)).sample_size


def millions(network: torch.nn.Module) -> str:
    return f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f}"


HALF = ", bfloat16"


def losses(module: AutoencoderTraining, audio: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The loss of each network, the discriminator taking part in the generator's."""
    after_warmup = 2 * module.warmup_steps
    found: dict[str, Callable[[], Tensor]] = {
        "generator step": lambda: module.generator_step(audio, after_warmup)
    }
    if module.discriminator is not None:
        found["discriminator step"] = lambda: module.discriminator_step(audio)
    return found


def autocast(audio: Tensor, half: bool) -> Any:
    return torch.autocast(audio.device.type, torch.bfloat16, enabled=half)


def steps(module: AutoencoderTraining, audio: Tensor, half: bool) -> dict[str, Work]:
    """What one step of either network does: forward, loss, backward, AdamW."""

    def step(loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        def work() -> None:
            with autocast(audio, half):
                value = loss()
            value.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return work

    pairs = zip(losses(module, audio).items(), module.configure_optimizers())
    return {name + HALF * half: step(loss, optimizer) for (name, loss), optimizer in pairs}


def print_gradients(module: AutoencoderTraining, audio: Tensor) -> None:
    """How near the gradient under autocast is to that in float32, with the same noise."""
    networks = {"generator step": module.model, "discriminator step": module.discriminator}
    for name, loss in losses(module, audio).items():
        found = []
        for half in (False, True):
            torch.manual_seed(1)
            module.zero_grad(set_to_none=True)
            with autocast(audio, half):
                value = loss()
            value.backward()
            network = networks[name]
            assert network is not None
            found.append((value.item(), gradient(network)))
        module.zero_grad(set_to_none=True)
        (full_loss, full), (mixed_loss, mixed) = found
        cosine = torch.nn.functional.cosine_similarity(full, mixed, dim=0)
        print(f"{name}: loss {full_loss:.5g} in float32, {mixed_loss:.5g} in bfloat16; its gradient has")
        ratio = mixed.norm() / full.norm()
        print(f"  cosine {cosine:.5f} with the one in float32, and {ratio:.4f} of its length")


def gradient(network: torch.nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten().float() for p in network.parameters() if p.grad is not None])


def count(work: Work) -> float:
    """FLOPs of the matrix products and convolutions in `work`."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


if __name__ == "__main__":
    main()
