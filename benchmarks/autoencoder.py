"""Encode and decode speed of an oobleck autoencoder, plain and made faster, against the bound of its FLOPs.

python benchmarks/autoencoder.py [--channels 32] [--seconds 4] [--device cpu] [--compile] [--threads 1]

The layout is that of Stable Audio Open (ratio 2048, stereo, 44.1 kHz); 128 channels are its width. All
variants take turns in one process. The bound is the time of the same multiplications as one large matrix
product or convolution, whichever is faster here, in the variant's type. On the CPU with one thread, times
are those of the processor, which other programs on the machine disturb less.

Then: what chunking changes at the seams, and the peak memory over the length.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

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

from stable_audio.pretransforms import DECODERS, ENCODERS, Autoencoder, fold_weight_norm
from stable_audio.pretransforms.bottlenecks import BOTTLENECKS
from stable_audio.pretransforms.fast import fast_inference

STRIDES = [2, 4, 4, 8, 8]
RATIO, RATE, LATENTS = 2048, 44_100, 64


@dataclass(frozen=True)
class Variant:
    """A model in a type; fast: inside `fast_inference`."""

    model: Autoencoder
    dtype: torch.dtype = torch.float32
    fast: bool = False

    def encode(self, audio: Tensor) -> Tensor:
        return self._run(self.model.encode_features, audio)

    def decode(self, latents: Tensor) -> Tensor:
        return self._run(self.model.decode, latents)

    def _run(self, step: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        x = x.to(self.dtype)
        if not self.fast:
            return step(x)
        with fast_inference(self.model):  # preparing is part of the time
            return step(x)


@torch.no_grad()
def main() -> None:
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    frames = max(1, round(args.seconds * RATE / RATIO))
    model = build(args.channels).to(args.device)
    print(describe_timing(args.device, "float32"))
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{millions:.1f}M parameters, {frames * RATIO / RATE:.1f} s of stereo at 44.1 kHz\n")
    found = variants(model, args.device, args.compile)
    rates = {d: rate(args.device, d) for d in dict.fromkeys(v.dtype for v in found.values())}
    for dtype, flops in rates.items():
        print(f"bound in {str(dtype).removeprefix('torch.')}: {flops / 1e9:.0f} GFLOP/s")
    audio = 0.1 * torch.randn(1, 2, frames * RATIO, device=args.device)
    latents = torch.randn(1, LATENTS, frames, device=args.device)
    for direction, x in (("encode", audio), ("decode", latents)):
        works: dict[str, Callable[[], Tensor]] = {
            name: partial(getattr(v, direction), x) for name, v in found.items()
        }
        print()
        _print_speed(direction, works, [rates[v.dtype] for v in found.values()], frames, args)
    _print_seams(model, args)
    _print_memory(args)


def parse() -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--channels", type=int, default=32, help="width; 128 is the published model")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too; needs a compiler")
    parser.add_argument("--overlaps", type=int, nargs="*", default=[0, 8, 16, 32, 48])
    parser.add_argument("--lengths", type=float, nargs="*", default=[10, 30, 60, 120], help="seconds")
    parser.add_argument("--memory-channels", type=int, default=8, help="width of the memory table")
    return parser.parse_args()


def build(channels: int) -> Autoencoder:
    """The layout of Stable Audio Open's autoencoder at another width."""
    shared = {"channels": channels, "c_mults": [1, 2, 4, 8, 16], "strides": STRIDES, "use_snake": True}
    return Autoencoder(
        encoder=ENCODERS["oobleck"](in_channels=2, latent_dim=2 * LATENTS, **shared),
        decoder=DECODERS["oobleck"](out_channels=2, latent_dim=LATENTS, final_tanh=False, **shared),
        bottleneck=BOTTLENECKS["vae"](),
        latent_dim=LATENTS,
        downsampling_ratio=RATIO,
        io_channels=2,
    ).eval()


def variants(model: Autoencoder, device: str, compiled: bool) -> dict[str, Variant]:
    """Plain first. What is known to lose on a device is left out: float16 on CPUs, for one."""
    folded = fold_weight_norm(copy.deepcopy(model))
    found = {"plain": Variant(model), "folded": Variant(folded)}
    if device == "cpu":
        found["fast"] = Variant(model, fast=True)
        half = copy.deepcopy(model).bfloat16()
        found |= {
            "bfloat16": Variant(half, torch.bfloat16),
            "fast bfloat16": Variant(half, torch.bfloat16, fast=True),
        }
    else:
        for dtype in (torch.float16, torch.bfloat16):
            found[f"folded {str(dtype)[6:]}"] = Variant(copy.deepcopy(folded).to(dtype), dtype)
    if compiled:
        bases = {"compiled": found["folded"]}
        bases |= {f"compiled {n[7:]}": v for n, v in found.items() if n.startswith("folded ")}
        for name, base in bases.items():
            copied = copy.deepcopy(base.model)
            copied.encoder.compile()
            copied.decoder.compile()
            found[name] = Variant(copied, base.dtype)
    return found


def rate(device: str, dtype: torch.dtype) -> float:
    """FLOPs per second of the faster of two large operations."""
    size = 8192 if device.startswith("cuda") else 1024
    return max(matmul_rate(device, dtype, size=size), convolution_rate(device, dtype))


def _print_speed(
    direction: str,
    works: dict[str, Callable[[], Tensor]],
    rates: Iterable[float],
    frames: int,
    args: argparse.Namespace,
) -> None:
    with FlopCounterMode(display=False) as counter:
        plain = works["plain"]()
    flops = counter.get_total_flops()
    turns: dict[str, Work] = dict(works)
    times = time_together(turns, rounds=args.rounds, device=args.device)
    rows = [
        (
            name,
            times[name],
            frames * RATIO / RATE / times[name],
            times["plain"] / times[name],
            flops / peak / times[name],
            peak_memory(work, args.device) / 2**20,
            _error(work().float(), plain),
        )
        for (name, work), peak in zip(works.items(), rates)
    ]
    header = (direction, "seconds", "x real time", "x plain", "of bound", "peak MiB", "error")
    print_table(header, rows)


def _error(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference, relative to the expected signal."""
    return ((found - expected).norm() / expected.norm()).item()


def _print_seams(model: Autoencoder, args: argparse.Namespace, *, chunk: int = 96, frames: int = 200) -> None:
    """The largest and the mean error of chunks, relative to the standard deviation of one pass."""
    latents = torch.randn(1, LATENTS, frames, device=args.device)
    audio = 0.1 * torch.randn(1, 2, frames * RATIO, device=args.device)
    rows = []
    with fast_inference(model):
        steps = {"decode": (model.decode, model.decode_chunked, latents)}
        steps["encode"] = (mean(model.encode), mean(model.encode_chunked), audio)
        for name, (whole, chunked, x) in steps.items():
            expected = whole(x)
            for overlap in args.overlaps:
                error = chunked(x, chunk_size=chunk, overlap=overlap) - expected
                worst = error.abs().max() / expected.std()
                rows.append((f"{name}, overlap {overlap}", worst.item(), _error(error + expected, expected)))
    print(f"\nchunks of {chunk} frames against one pass of {frames}")
    print_table(("", "largest", "root mean square"), rows)


def mean(step: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`step` with the noise of a VAE left out."""
    return lambda x, **options: step(x, noise=torch.zeros_like, **options)


def _print_memory(args: argparse.Namespace) -> None:
    """Peak memory of chunks of 128 frames and of one pass, the output included."""
    model = build(args.memory_channels).to(args.device)
    rows = []
    for direction in ("decode", "encode"):
        for seconds in args.lengths:
            frames = max(1, round(seconds * RATE / RATIO))
            shape = (1, LATENTS, frames) if direction == "decode" else (1, 2, frames * RATIO)
            x = torch.randn(shape, device=args.device)
            with fast_inference(model):
                made = getattr(model, f"{direction}_chunked")(x)
                output = made.numel() * made.element_size()
                del made
                peak = peak_memory(partial(getattr(model, f"{direction}_chunked"), x), args.device)
                one = peak_memory(partial(getattr(model, direction), x), args.device)
            cells = (v / 2**20 for v in (output, peak, peak - output, one))
            rows.append((f"{direction} {seconds:g} s", *cells))
    print(f"\npeak memory in MiB, {args.memory_channels} channels, chunks of 128 frames (6 s)")
    print_table(("", "output", "chunked", "beyond output", "one pass"), rows)


if __name__ == "__main__":
    main()
