"""Sampling with a DiT and guidance against its matrix products and attention alone, in one process.

python benchmarks/sampling.py [--steps 10 --cfg-scale 4 --frames 256]
"""

from __future__ import annotations

import argparse

import torch
from common import (
    Bound,
    add_model_arguments,
    describe_machine,
    new_parser,
    peak_memory,
    print_table,
    time_together,
)
from torch import Tensor

from stable_audio.backbones import DiT
from stable_audio.diffusion.guidance import Guidance
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.diffusion.sampling import sample
from stable_audio.types import Conditioning


def main() -> None:
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    place = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    dit = build_dit(args).to(**place).eval()
    bound = Bound(
        dim=args.dim,
        depth=args.depth,
        heads=args.heads,
        channels=args.channels,
        context=args.dim,
        mult=4,
        project_context=False,
    ).to(**place)
    noise = torch.randn(args.batch, args.channels, args.frames, device=args.device)
    cond = Conditioning(cross_attn=torch.randn(args.batch, args.context, args.dim, **place))
    objective = OBJECTIVES["rectified_flow"]()

    @torch.inference_mode()
    def generate(cfg_scale: float) -> Tensor:
        predict = Guidance(dit, objective, cond, cfg_scale=cfg_scale, dtype=place["dtype"])
        return sample(predict, noise, objective=objective, noise=no_noise, sampler="euler", steps=args.steps)

    @torch.inference_mode()
    def products(branches: int) -> None:
        x = torch.randn(branches * args.batch, args.frames, args.channels, **place)
        kv = torch.randn(branches * args.batch, args.context, 2 * args.dim, **place)
        for _ in range(args.steps):
            bound(x, kv)

    print(f"DiT depth {args.depth}, width {args.dim}; batch {args.batch} x {args.frames} frames")
    print(f"{describe_machine(args.device, args.dtype)}\n")
    rows = []
    for name, scale, branches in (
        ("no guidance", 1.0, 1),
        (f"cfg_scale {args.cfg_scale:g}", args.cfg_scale, 2),
    ):
        works = {"model": lambda s=scale: generate(s), "bound": lambda b=branches: products(b)}
        times = time_together(works, rounds=args.rounds, device=args.device)
        peaks = [peak_memory(w, args.device) / 2**20 for w in works.values()]
        tokens = args.batch * args.frames * args.steps
        rows.append(
            (
                name,
                args.steps / times["model"],
                tokens / times["model"],
                tokens / times["bound"],
                times["model"] / times["bound"],
                *peaks,
            )
        )
    print_table(("", "steps/s", "tokens/s", "bound tokens/s", "time ratio", "peak MiB", "bound MiB"), rows)


def no_noise(like: Tensor, t_from: float | None = None, t_to: float | None = None) -> Tensor:
    return torch.zeros_like(like)


def build_dit(args: argparse.Namespace) -> DiT:
    return DiT(
        io_channels=args.channels,
        embed_dim=args.dim,
        depth=args.depth,
        num_heads=args.heads,
        cond_token_dim=args.dim,
        global_cond_type="adaLN",
    )


def parse() -> argparse.Namespace:
    parser = new_parser(__doc__)
    add_model_arguments(parser)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--cfg-scale", type=float, default=4.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
