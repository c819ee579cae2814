"""What precision of in-loop encoding, cudnn's search and channels-last are worth on a GPU.

python benchmarks/gpu_layouts.py [--seconds 10 --batch 4]

Encoding: an Oobleck VAE encoder as training calls it, and how far the latents' means move, relative to
their spread. cudnn and layouts: forward and backward of a 2-D U-Net and of a Dance Diffusion U-Net in bf16.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from common import print_table, time_together
from gpu_common import ROOT, card, parser, published_model
from torch import Tensor

from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.types import Conditioning, Slot

NETWORKS = {
    # name: model file, clips at once
    "unet 2-D": ("model_configs/bakeoff/unet_2d.json", 8),
    "Stable Diffusion 1": ("model_configs/unet/stable_diffusion_1.json", 1),
    "Dance Diffusion": ("model_configs/dance_diffusion/dance_diffusion_base.json", 4),
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

    @torch.no_grad()
    def encode() -> Tensor:
        dtype = next(encoder.parameters()).dtype
        return encoder.encode(audio.to(dtype), noise=torch.zeros_like).float()

    exact = encode()
    rows = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        encoder.to(dtype)
        for search in (False, True):
            torch.backends.cudnn.benchmark = search
            rows.append((str(dtype)[6:], search, 1e3 * timed(encode, args), float(_error(encode(), exact))))
    print(f"encoding {args.batch} x {args.seconds:g} s of stereo at 44.1 kHz, by type of the weights")
    print_table(("", "cudnn searches", "ms", "error of latents"), rows)
    print()


def _error(latents: Tensor, exact: Tensor) -> Tensor:
    return (latents - exact).std() / exact.std()


def networks(args: argparse.Namespace) -> None:
    rows = []
    for name, (path, batch) in NETWORKS.items():
        for last in (False, True):
            torch.cuda.empty_cache()
            step = network_step(path, batch, args.device, channels_last=last)
            for search in (False, True):
                torch.backends.cudnn.benchmark = search
                rows.append((name, batch, last, search, 1e3 * timed(step, args)))
            del step
    print_table(("forward + backward in bf16", "batch", "channels last", "cudnn searches", "ms"), rows)


def network_step(path: str, batch: int, device: str, *, channels_last: bool) -> Callable[[], object]:
    config = load_config(ROOT / path)
    model = create_model_from_config(config, device="meta")
    shape = model.latent_shape
    network = model.backbone.to_empty(device=device)
    with torch.no_grad():
        for p in network.parameters():
            p.normal_(0, 0.02)
    if channels_last:
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.to(memory_format=torch.channels_last)
    x = torch.randn(batch, *shape, device=device)
    cond = Conditioning()
    if (width := network.slot_widths.get(Slot.CROSS_ATTN)) is not None:
        cond = Conditioning(cross_attn=torch.randn(batch, 77, width, device=device))
    if (width := network.slot_widths.get(Slot.GLOBAL)) is not None:
        cond = cond.replace(global_cond=torch.randn(batch, width, device=device))
    t = torch.rand(batch, device=device)

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
