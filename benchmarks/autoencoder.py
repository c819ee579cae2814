"""Encode and decode speed of an autoencoder, as it is and made faster, against the bound set by its FLOPs.

python benchmarks/autoencoder.py [--channels 32] [--seconds 4] [--device cpu] [--compile]

The bound is the time that the same multiplications take as one large matrix product on this machine.
"""

from __future__ import annotations

import argparse
import copy
import resource
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stable_audio.pretransforms import DECODERS, ENCODERS, Autoencoder, fold_weight_norm
from stable_audio.pretransforms.bottlenecks import BOTTLENECKS

STRIDES = [2, 4, 4, 8, 8]


def build(channels: int) -> Autoencoder:
    """The layout of Stable Audio Open's autoencoder at another width (128 is the published one)."""
    shared = {"channels": channels, "c_mults": [1, 2, 4, 8, 16], "strides": STRIDES, "use_snake": True}
    return Autoencoder(
        encoder=ENCODERS["oobleck"](in_channels=2, latent_dim=128, **shared),
        decoder=DECODERS["oobleck"](out_channels=2, latent_dim=64, final_tanh=False, **shared),
        bottleneck=BOTTLENECKS["vae"](),
        latent_dim=64,
        downsampling_ratio=2048,
        io_channels=2,
    ).eval()


def timed(fn: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """Seconds of the fastest of `repeats` runs, after one to warm up."""
    best = float("inf")
    for i in range(repeats + 1):
        began = time.perf_counter()
        fn()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began) if i else best
    return best


def flops_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Of a large matrix product."""
    n = 8192 if device.type == "cuda" else 1024
    a = torch.randn(n, n, device=device, dtype=dtype)
    return 2 * n**3 / timed(lambda: a @ a, device)


def peak_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def variants(
    model: Autoencoder, device: torch.device, compiled: bool
) -> dict[str, tuple[nn.Module, torch.dtype]]:
    folded = fold_weight_norm(copy.deepcopy(model))
    found: dict[str, tuple[nn.Module, torch.dtype]] = {
        "plain": (model, torch.float32),
        "folded": (folded, torch.float32),
    }
    if device.type == "cuda":
        found["folded, half"] = (copy.deepcopy(folded).half(), torch.float16)
    if compiled:
        fast = copy.deepcopy(folded).to(found[list(found)[-1]][1])
        fast.decoder.compile()
        fast.encoder.compile()
        found["folded, compiled"] = (fast, found[list(found)[-1]][1])
    return found


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--channels", type=int, default=32, help="width; 128 is the published model")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    device = torch.device(args.device)
    frames = max(1, round(args.seconds * 44_100 / 2048))
    seconds = frames * 2048 / 44_100
    model = build(args.channels).to(device)
    audio, latents = (
        torch.randn(1, 2, frames * 2048, device=device),
        torch.randn(1, 64, frames, device=device),
    )
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {seconds:.1f} s of stereo at 44.1 kHz")
    columns = ("encode", "x real", "of bound", "decode", "x real", "of bound")
    print(" " * 24 + "".join(f"{c:>10s}" for c in columns))
    plain: float | None = None
    for name, (variant, dtype) in variants(model, device, args.compile).items():
        rate = flops_per_second(device, dtype)
        cells = ""
        for fn, x in ((variant.encode_features, audio), (variant.decode, latents)):
            cells += _cells(fn, x.to(dtype), device, rate, seconds)
        decode = timed(lambda v=variant, d=dtype: v.decode(latents.to(d)), device)
        plain = decode if plain is None else plain
        print(f"{name:24s}{cells}   {plain / decode:.2f}x plain")
    print(f"peak memory {peak_bytes(device) / 2**20:.0f} MiB")
    _chunks(model, device)


def _cells(
    fn: Callable[[Tensor], Tensor], x: Tensor, device: torch.device, rate: float, seconds: float
) -> str:
    with FlopCounterMode(display=False) as counter:
        fn(x)
    spent = timed(lambda: fn(x), device)
    bound = counter.get_total_flops() / rate
    return f"{spent:9.3f}s{seconds / spent:9.1f}x{bound / spent:10.0%}"


def _chunks(model: Autoencoder, device: torch.device) -> None:
    """Error at the seams, and memory over the length."""
    latents = torch.randn(1, 64, 200, device=device)
    whole = model.decode(latents)
    for overlap in (8, 16, 32):
        error = (model.decode_chunked(latents, chunk_size=96, overlap=overlap) - whole).abs().max()
        print(f"chunks of 96, overlap {overlap}: largest error {error / whole.std():.1e} of the std")


if __name__ == "__main__":
    main()
