"""Generation in one run: a straightforward loop of plain modules, ours, ours compiled, ours in bfloat16.

python benchmarks/inference.py [--only 50M tiny] [--batch 1 4 --steps 4]

On a CPU: Euler steps with guidance of a DiT of 50 million parameters, and of a tiny one, whose time is what a
step costs beside its products. All take turns in one process. The bound is the same matrix products and
attention and nothing else, by the library that torch calls and by oneDNN. On a GPU: published models, as
`gpu_inference.py` says.
"""

from __future__ import annotations

import argparse
import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import gpu_inference
import torch
import torch.nn.functional as F
from common import Work, build_bound, build_dit, describe_machine, new_parser, print_table, time_together
from plain_dit import PlainDiT, plain_sample
from torch import Tensor

from stable_audio.backbones import DiT
from stable_audio.diffusion.guidance import Guidance
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.diffusion.sampling import sample
from stable_audio.types import Conditioning


@dataclass(frozen=True)
class Size:
    """Sizes of a DiT and of its inputs."""

    dim: int
    depth: int
    heads: int
    frames: int
    context: int
    channels: int = 64

    def dit(self) -> DiT:
        return build_dit(self, zero_init_branch_outputs=False).eval().requires_grad_(False)


SIZES = {
    "50M": Size(dim=512, depth=10, heads=8, frames=256, context=64),
    "tiny": Size(dim=64, depth=4, heads=2, frames=16, context=8),
    "test": Size(dim=32, depth=1, heads=1, frames=8, context=4),
}
"""Name on the command line -> sizes; `test` is for the tests of this script."""

WAYS = ("plain", "ours", "compiled", "bfloat16", "bfloat16, compiled", "bound", "bound of oneDNN")


def _by_onednn(x: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


HEAD = ("", "batch", "", "ms/step", "of plain", "of the bound")
_BOUNDS = {"bound": F.linear, "bound of oneDNN": _by_onednn}


def main() -> None:
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device.startswith("cuda"):
        gpu_inference.main(args)
        return
    print(f"{describe_machine(args.device, 'float32')}, {torch.backends.cpu.get_cpu_capability()}")
    print(f"Euler steps with guidance, median of {args.rounds} interleaved rounds\n")
    for name in args.only:
        for batch in args.batch:
            print_table(HEAD, measure(name, SIZES[name], batch, args))
            print(flush=True)


def measure(name: str, size: Size, batch: int, args: argparse.Namespace) -> list[tuple[object, ...]]:
    torch.manual_seed(0)
    bench = Bench(size, batch, args.steps, args.cfg_scale, device=args.device)
    works = {way: bench.work(way) for way in args.ways}
    with torch.inference_mode():
        bench.check()
        times = time_together(works, rounds=args.rounds, device=args.device)

    def share(way: str, of: str) -> object:
        return times[way] / times[of] if of in times else ""

    return [
        (name, batch, way, 1e3 * times[way] / args.steps, share(way, "plain"), share(way, "bound"))
        for way in works
    ]


class Bench:
    """One DiT, one batch, and the ways to sample it."""

    def __init__(self, size: Size, batch: int, steps: int, cfg_scale: float, *, device: str = "cpu") -> None:
        self.size, self.batch, self.cfg_scale, self.device = size, batch, cfg_scale, device
        self.dit = size.dit().to(device)
        self.objective = OBJECTIVES["rectified_flow"]()
        self.levels = [1 - i / steps for i in range(steps)] + [0.0]
        self.noise = torch.randn(batch, size.channels, size.frames, device=device)
        self.text = torch.randn(batch, size.context, size.dim, device=device)

    def work(self, way: str) -> Work:
        if way == "plain":
            return partial(self.plain, PlainDiT(self.dit))
        if way in _BOUNDS:
            return self._bound(_BOUNDS[way])
        dit = copy.deepcopy(self.dit)
        if way.startswith("bfloat16"):
            dit.to(torch.bfloat16)
        if way.endswith("compiled"):
            dit.compile()
        return lambda: self.ours(dit)

    def plain(self, model: PlainDiT) -> Tensor:
        torch.backends.mkldnn.set_flags(False)  # the layers of this loop are torch's own
        try:
            return plain_sample(model, self.noise, self.levels, text=self.text, cfg_scale=self.cfg_scale)
        finally:
            torch.backends.mkldnn.set_flags(True)

    def ours(self, dit: DiT) -> Tensor:
        dtype = next(dit.parameters()).dtype
        cond = Conditioning(cross_attn=self.text.to(dtype))
        predict = Guidance(dit, self.objective, cond, cfg_scale=self.cfg_scale, dtype=dtype)
        return sample(
            predict,
            self.noise,
            objective=self.objective,
            noise=lambda like, *_: torch.zeros_like(like),
            sampler="euler",
            schedule=self.levels,
        )

    def _bound(self, linear: Callable[[Tensor, Tensor], Tensor]) -> Work:
        size, rows = self.size, self.batch * (1 if self.cfg_scale == 1 else 2)
        bound = build_bound(size, project_context=False, linear=linear).to(self.device)
        x = torch.randn(rows, size.frames, size.channels, device=self.device)
        kv = torch.randn(rows, size.context, 2 * size.dim, device=self.device)
        return lambda: [bound(x, kv) for _ in self.levels[1:]]

    def check(self) -> None:
        """Both loops have the same result, or the comparison says nothing."""
        torch.testing.assert_close(self.work("plain")(), self.ours(self.dit), rtol=1e-3, atol=1e-3)


def parse() -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=list(SIZES), default=["50M", "tiny"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--cfg-scale", type=float, default=4.0)
    gpu_inference.add_arguments(parser.add_argument_group("on a GPU"))
    return parser.parse_args()


if __name__ == "__main__":
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "2")
    main()
