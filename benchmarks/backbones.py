"""Forward and training step of every backbone against the time that their FLOPs imply on this machine.

python benchmarks/backbones.py [--only dit unet]

FLOPs are counted, forward and backward, on the very network that is timed. The bound is those FLOPs at the
rate of a square matrix product timed in turn with it; convolutions and small matrices cannot reach it. What
they do reach is the time of "products": the same convolutions, matrix products and attention, called again
with the same tensors, without anything between them. With one CPU thread, time is that of the processor.
"""

from __future__ import annotations

import argparse
import inspect
from typing import Any

import torch
from common import Work, describe_machine, matmul_rate, new_parser, peak_memory, print_table, time_together
from products import products_alone
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from stable_audio.backbones import BACKBONES
from stable_audio.backbones.base import Backbone
from stable_audio.types import Conditioning, Slot

CHANNELS, TOKENS, WIDTH = 16, 16, 64
DIT: dict[str, Any] = {
    "io_channels": CHANNELS,
    "embed_dim": 256,
    "depth": 6,
    "num_heads": 4,
    "cond_token_dim": WIDTH,
    "global_cond_type": "adaLN",
}
ADP: dict[str, Any] = {
    "in_channels": CHANNELS,
    "channels": 64,
    "multipliers": [1, 2, 4],
    "factors": [2, 2],
    "num_blocks": [2, 2],
    "attentions": [0, 1, 1],
    "attention_heads": 4,
}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "dit": ("dit", DIT),
    "dit, x-transformers": ("dit", {**DIT, "transformer_type": "x-transformers"}),
    "DAU1d": (
        "DAU1d",
        {
            "io_channels": CHANNELS,
            "depth": 4,
            "n_attn_layers": 2,
            "channels": [64, 128, 128, 256],
            "strides": [2, 2, 2],
        },
    ),
    "adp_cfg_1d": (
        "adp_cfg_1d",
        {**ADP, "context_embedding_features": WIDTH, "context_embedding_max_length": TOKENS},
    ),
    "adp_1d": ("adp_1d", ADP),
    "unet": ("unet", {}),
    "mlp": ("mlp", {}),
}
"""Row of the table -> backbone and settings; {} takes the constructor's defaults."""


def main() -> None:
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype)
    rate = matmul_rate(args.device, dtype)
    print(f"{describe_machine(args.device, args.dtype)}; matrix product {rate / 1e9:.1f} GFLOP/s")
    print(f"batch {args.batch} x {args.frames} frames, {CHANNELS} channels, {TOKENS} tokens where attended\n")
    rows = [measure(name, args, dtype) for name in (args.only or SETTINGS)]
    print_table(
        ("", "parameters", "GFLOP fwd")
        + ("forward s", "x bound", "x products", "step s", "x bound", "x products", "step MiB"),
        rows,
    )


def parse() -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--only", nargs="*", choices=list(SETTINGS), help="rows to measure; all by default")
    parser.add_argument("--frames", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    return parser.parse_args()


def measure(name: str, args: argparse.Namespace, dtype: torch.dtype) -> tuple[object, ...]:
    kind, settings = SETTINGS[name]
    torch.manual_seed(0)
    backbone = build(kind, settings).to(device=args.device, dtype=dtype)
    x, t, cond = inputs(backbone, args, dtype)

    def forward() -> Tensor:
        with torch.no_grad():
            return backbone(x, t, cond)

    def step() -> None:
        backbone.zero_grad(set_to_none=True)
        backbone(x, t, cond).square().mean().backward()

    product = torch.randn(1024, 1024, device=args.device, dtype=dtype)
    works: dict[str, Work] = {"forward": forward, "step": step, "product": lambda: product @ product}
    works |= {f"products of {name}": products_alone(works[name]) for name in ("forward", "step")}
    times = time_together(works, rounds=args.rounds, device=args.device)
    rate = 2 * 1024**3 / times["product"]
    flops = {"forward": count_flops(forward), "step": count_flops(step)}
    return (
        name,
        f"{sum(p.numel() for p in backbone.parameters()) / 1e6:.1f}M",
        flops["forward"] / 1e9,
        times["forward"],
        times["forward"] * rate / flops["forward"],
        times["forward"] / times["products of forward"],
        times["step"],
        times["step"] * rate / flops["step"],
        times["step"] / times["products of step"],
        peak_memory(step, args.device) / 2**20,
    )


def build(kind: str, settings: dict[str, Any]) -> Backbone:
    """The backbone with io_channels filled in where its constructor asks for them."""
    cls = BACKBONES[kind]
    parameters = inspect.signature(cls).parameters
    channels = {k: CHANNELS for k in ("io_channels",) if k in parameters and k not in settings}
    return cls(**channels, **settings)


def inputs(
    backbone: nn.Module, args: argparse.Namespace, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Conditioning]:
    place = {"device": args.device, "dtype": dtype}
    widths: dict[Slot, int | None] = backbone.slot_widths
    cross_attn = None
    if Slot.CROSS_ATTN in widths:
        cross_attn = torch.randn(args.batch, TOKENS, widths[Slot.CROSS_ATTN] or WIDTH, **place)
    x = torch.randn(args.batch, backbone.io_channels, args.frames, **place)
    t = torch.rand(args.batch, device=args.device)
    return x, t, Conditioning(cross_attn=cross_attn)


def count_flops(work: Any) -> int:
    """Multiplications and additions of one call; attention through matrix products, which are counted."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


if __name__ == "__main__":
    main()
