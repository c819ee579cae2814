"""Generation with a published model on a GPU: by precision, by batch, and what decoding costs.

python benchmarks/gpu_generation.py [--steps 50 --cfg-scale 7]

strict: float32 without TF32. tf32: float32 weights, products in TF32, as `generate` runs. Sampling and
decoding are timed apart; x real time counts both.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from common import print_table
from gpu_common import card, parser, published_model
from torch import Tensor

from stable_audio.inference.generation.generate import generate
from stable_audio.model import DiffusionModel

PRECISIONS = {
    "strict": ("highest", torch.float32),
    "tf32": ("high", torch.float32),
    "bfloat16": ("high", torch.bfloat16),
    "float16": ("high", torch.float16),
}


def main() -> None:
    args = parse()
    model, _ = published_model(args)
    model.eval().requires_grad_(False)
    seconds = model.sample_size / model.sample_rate
    print(f"{card(args.device)}; {args.config}; {seconds:.1f} s of sound, {args.steps} steps, guidance\n")
    rows = []
    for name in args.precisions.split(","):
        matmul, dtype = PRECISIONS[name]
        torch.set_float32_matmul_precision(matmul)
        model.backbone.to(dtype)
        for batch in args.batch:
            rows.append((name, batch, *measure(model, args, batch)))
    head = ("", "batch", "sampling s", "ms/step", "decoding s", "x real time", "peak GiB")
    print_table(head, rows)


def measure(model: DiffusionModel, args: argparse.Namespace, batch: int) -> tuple[float, ...]:
    def sample(steps: int) -> Tensor:
        items = [{} for _ in range(batch)]
        return generate(model, items, steps=steps, cfg_scale=args.cfg_scale, return_latents=True)

    sample(3)
    torch.cuda.reset_peak_memory_stats()
    latents, sampling = timed(lambda: sample(args.steps))
    model.pretransform.decode(latents[:1].to(args.device))
    _, decoding = timed(lambda: [model.pretransform.decode(x.to(args.device)) for x in latents.split(1)])
    sound = batch * model.sample_size / model.sample_rate
    used = torch.cuda.max_memory_allocated() / 2**30
    return sampling, 1e3 * sampling / args.steps, decoding, sound / (sampling + decoding), used


@torch.no_grad()
def timed(work: Callable[[], object]) -> tuple[object, float]:
    torch.cuda.synchronize()
    started = time.perf_counter()
    out = work()
    torch.cuda.synchronize()
    return out, time.perf_counter() - started


def parse() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    made.add_argument("--steps", type=int, default=50)
    made.add_argument("--cfg-scale", type=float, default=7.0)
    made.add_argument("--precisions", default=",".join(PRECISIONS))
    return made.parse_args()


if __name__ == "__main__":
    main()
