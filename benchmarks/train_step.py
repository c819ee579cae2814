"""Training step of a DiT against its matrix products and attention alone, in one process.

python benchmarks/train_step.py [--depth 8 --dim 512 --frames 256 --batch 4]
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from common import (
    Bound,
    add_model_arguments,
    build_dit,
    describe_machine,
    new_parser,
    peak_memory,
    print_table,
    time_together,
)
from torch import Tensor

from stable_audio.backbones import DiT
from stable_audio.types import Conditioning


def main() -> None:
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    dit, bound, inputs = build(args)
    x, t, context = inputs
    tokens = args.batch * args.frames
    optimizers = {m: torch.optim.AdamW(m.parameters(), lr=1e-6, fused=True) for m in (dit, bound)}

    def model_forward() -> Tensor:
        return dit(x, t, Conditioning(cross_attn=context))

    def bound_forward() -> Tensor:
        return bound(x.mT, context)

    def backward(forward: Any) -> Any:
        return lambda: forward().square().mean().backward()

    def step(forward: Any, module: Any) -> Any:
        def work() -> None:
            backward(forward)()
            optimizers[module].step()
            optimizers[module].zero_grad(set_to_none=True)

        return work

    def recomputed() -> None:
        dit.enable_gradient_checkpointing()
        step(model_forward, dit)()
        dit.enable_gradient_checkpointing(False)

    works = {
        "forward": (torch.no_grad()(model_forward), torch.no_grad()(bound_forward)),
        "forward + backward": (backward(model_forward), backward(bound_forward)),
        "step with AdamW": (step(model_forward, dit), step(bound_forward, bound)),
        "step, recomputing": (recomputed, step(bound_forward, bound)),
    }
    print(f"DiT depth {args.depth}, width {args.dim}; batch {args.batch} x {args.frames} frames")
    print(f"{describe_machine(args.device, args.dtype)}; {dit_size(dit)} parameters\n")
    rows = []
    for name, (model, lower) in works.items():
        times = time_together({"model": model, "bound": lower}, rounds=args.rounds, device=args.device)
        rows.append(
            (
                name,
                1 / times["model"],
                tokens / times["model"],
                tokens / times["bound"],
                times["model"] / times["bound"],
                peak_memory(model, args.device) / 2**20,
                peak_memory(lower, args.device) / 2**20,
            )
        )
    print_table(
        ("", "steps/s", "tokens/s", "bound tokens/s", "time ratio", "peak MiB", "bound MiB"),
        rows,
    )


def parse() -> argparse.Namespace:
    parser = new_parser(__doc__)
    add_model_arguments(parser)
    parser.add_argument("--batch", type=int, default=4)
    return parser.parse_args()


def build(args: argparse.Namespace) -> tuple[DiT, Bound, tuple[Tensor, Tensor, Tensor]]:
    width = args.dim
    place = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    dit = build_dit(args).to(**place)
    bound = Bound(
        dim=args.dim,
        depth=args.depth,
        heads=args.heads,
        channels=args.channels,
        context=width,
        mult=4,
        project_context=True,
    ).to(**place)
    x = torch.randn(args.batch, args.channels, args.frames, **place)
    context = torch.randn(args.batch, args.context, width, **place)
    return dit, bound, (x, torch.rand(args.batch, device=args.device), context)


def dit_size(dit: DiT) -> str:
    return f"{sum(p.numel() for p in dit.parameters()) / 1e6:.1f}M"


if __name__ == "__main__":
    main()
