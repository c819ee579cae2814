"""What precision of in-loop encoding, cudnn's search and channels-last are worth on a GPU.

python benchmarks/gpu_layouts.py [--seconds 10 --batch 4]

Encoding: an Oobleck VAE encoder as training calls it, and how far the latents' means move, relative to
their spread. cudnn and layouts: forward and backward of a 2-D U-Net and of a Dance Diffusion U-Net in bf16.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from typing import Any

import torch
from common import print_table, time_together
from gpu_common import ROOT, card, parser, published_model
from torch import Tensor

from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.types import Conditioning, Slot

NETWORKS = {
    "unet 2-D": "model_configs/bakeoff/unet_2d.json",
    "Stable Diffusion 1": "model_configs/unet/stable_diffusion_1.json",
    "Dance Diffusion": "model_configs/dance_diffusion/dance_diffusion_base.json",
}


def main() -> None:
    args = parse()
    torch.set_float32_matmul_precision("high")
    print(f"{card(args.device)}\n")
    encoding(args)
    networks(args)


def encoding(args: argparse.Namespace) -> None:
    model, _ = published_model(args)
    encoder = model.pretransform.requires_grad_(False).eval()
    model.backbone = None
    with torch.no_grad():
        for p in encoder.parameters():
            p.normal_(0, 0.02)
    samples = round(args.seconds * model.sample_rate) // 2048 * 2048
    audio = torch.randn(args.batch, 2, samples, device=args.device).cumsum(-1)
    audio = audio / audio.abs().amax(-1, keepdim=True)

    def encode(dtype: torch.dtype | None, search: bool) -> Tensor:
        torch.backends.cudnn.benchmark = search
        context: Any = contextlib.nullcontext() if dtype is None else torch.autocast("cuda", dtype)
        with torch.no_grad(), context:
            return encoder.encode(audio, noise=torch.zeros_like).float()

    kinds = {"tf32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
    exact = encode(None, False)
    rows = []
    for name, dtype in kinds.items():
        for search in (False, True):
            seconds = timed(lambda d=dtype, s=search: encode(d, s), args)
            error = (encode(dtype, search) - exact).std() / exact.std()
            rows.append((name, search, 1e3 * seconds, float(error)))
    print(f"encoding {args.batch} x {args.seconds:g} s of stereo at 44.1 kHz, random weights")
    print_table(("", "cudnn searches", "ms", "error of latents"), rows)
    print()


def networks(args: argparse.Namespace) -> None:
    rows = []
    for name, path in NETWORKS.items():
        for last in (False, True):
            for search in (False, True):
                torch.cuda.empty_cache()
                step = network_step(path, args, channels_last=last)
                torch.backends.cudnn.benchmark = search
                rows.append((name, last, search, 1e3 * timed(step, args)))
    print_table(("forward + backward in bf16", "channels last", "cudnn searches", "ms"), rows)


def network_step(path: str, args: argparse.Namespace, *, channels_last: bool) -> Callable[[], object]:
    config = load_config(ROOT / path)
    model = create_model_from_config(config, device="meta")
    shape = model.latent_shape
    network = model.backbone.to_empty(device=args.device)
    with torch.no_grad():
        for p in network.parameters():
            p.normal_(0, 0.02)
    if channels_last:
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.to(memory_format=torch.channels_last)
    x = torch.randn(args.batch, *shape, device=args.device)
    cond = Conditioning()
    if (width := network.slot_widths.get(Slot.CROSS_ATTN)) is not None:
        cond = Conditioning(cross_attn=torch.randn(args.batch, 77, width, device=args.device))
    if (width := network.slot_widths.get(Slot.GLOBAL)) is not None:
        cond = cond.replace(global_=torch.randn(args.batch, width, device=args.device))
    t = torch.rand(args.batch, device=args.device)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            network(x, t, cond).float().square().mean().backward()

    return step


def timed(work: Callable[[], object], args: argparse.Namespace) -> float:
    work()
    return time_together({"work": work}, rounds=args.rounds, device=args.device)["work"]


def parse() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--batch", type=int, default=4)
    made.add_argument("--seconds", type=float, default=10.0)
    return made.parse_args()


if __name__ == "__main__":
    main()
