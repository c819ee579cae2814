"""Kernels of a training step: which ones its time goes to, and attention by every kernel that PyTorch has.

python benchmarks/gpu_kernels.py [--batch 8 --modes eager compiled --most 25 --attention 8x1025x1025]

The DiT of Stable Audio Open 1.0 as in `gpu_training.py`. Groups are by the kernels' names; "span" is from the
beginning of the first kernel to the end of the last one, so what it has beyond "busy" is time in which the
device waits for the host.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from common import Work, print_table, time_together
from gpu_common import card, parser
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from training_steps import STEPS, Setup

STEPS_PROFILED = 3
GROUPS: dict[str, Sequence[str]] = {
    "attention": ("flash", "fmha", "sdpa", "attention"),
    "products": ("gemm", "nvjet", "cutlass", "xmma", "splitk"),
    "optimizer and average": ("multi_tensor", "adam", "foreach", "lerp"),
    "made by the compiler": ("triton",),
    "copies": ("memcpy", "memset", "copy"),
}
"""Group -> parts of the names of its kernels; the first group that fits counts."""

BACKENDS = {
    "chosen": None,
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "plain": SDPBackend.MATH,
}


def main() -> None:
    args = parse()
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    print(f"{card(args.device)}; {args.config}\n")
    attention(args)
    for mode in args.modes:
        step = STEPS[mode](Setup(args.config, args.batch, args.frames, args.device))
        for _ in range(3):
            step()
        print(f"\n{mode}, batch {args.batch}")
        kernels(step, args.most)


def kernels(step: Work, most: int) -> None:
    """Print the time of a step by groups of kernels, and the `most` kernels that take most of it."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(STEPS_PROFILED):
            step()
        torch.cuda.synchronize()
    seconds: collections.Counter[str] = collections.Counter()
    calls: collections.Counter[str] = collections.Counter()
    begins, ends = [], []
    for event in profiler.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            seconds[event.name] += event.time_range.elapsed_us() / 1e3 / STEPS_PROFILED
            calls[event.name] += 1
            begins.append(event.time_range.start)
            ends.append(event.time_range.end)
    groups: collections.Counter[str] = collections.Counter()
    for name, ms in seconds.items():
        groups[group_of(name)] += ms
    span = (max(ends) - min(begins)) / 1e3 / STEPS_PROFILED
    rows: list[tuple[Any, ...]] = [("span", "", span), ("busy", "", sum(seconds.values()))]
    rows += [(name, "", ms) for name, ms in groups.most_common()]
    rows += [(name[:90], calls[name] / STEPS_PROFILED, ms) for name, ms in seconds.most_common(most)]
    print_table(("", "calls per step", "ms per step"), rows)


def group_of(kernel: str) -> str:
    """The group of a kernel by its name."""
    name = kernel.lower()
    return next((group for group, words in GROUPS.items() if any(w in name for w in words)), "other")


def attention(args: argparse.Namespace) -> None:
    """Print forward, and forward and backward, of each kernel for each shape."""
    rows = [row for shape in args.attention for row in _attention(shape, args)]
    print_table(("attention", "", "forward ms", "TFLOP/s", "and backward ms", "TFLOP/s"), rows)


def _attention(shape: str, args: argparse.Namespace) -> Iterator[tuple[Any, ...]]:
    items, queries, keys = map(int, shape.split("x"))
    place: dict[str, Any] = {"device": args.device, "dtype": torch.bfloat16, "requires_grad": True}
    # As projections give them: queries, keys and values side by side.
    q = torch.randn(items, queries, 3, args.heads, args.head_width, **place)
    kv = q if queries == keys else torch.randn(items, keys, 3, args.heads, args.head_width, **place)

    def forward() -> torch.Tensor:
        parts = (y[:, :, i].transpose(1, 2) for i, y in ((0, q), (1, kv), (2, kv)))
        return F.scaled_dot_product_attention(*parts)

    operations = 4 * items * args.heads * queries * keys * args.head_width
    works: dict[str, Work] = {
        "forward": torch.no_grad()(forward),
        "both": lambda: forward().sum().backward(),
    }
    for name, backend in BACKENDS.items():
        try:
            times = {key: _seconds(partial(_with, backend, work), args) for key, work in works.items()}
        except RuntimeError as error:  # a kernel that this device or shape lacks
            yield shape, f"{name}: {str(error).splitlines()[0][:60]}", "", "", "", ""
            continue
        rates = operations / times["forward"] / 1e12, 3.5 * operations / times["both"] / 1e12
        yield shape, name, 1e3 * times["forward"], rates[0], 1e3 * times["both"], rates[1]


def _with(backend: SDPBackend | None, work: Work) -> None:
    """Do the work ten times with this kernel; None: with PyTorch's choice."""
    with nullcontext() if backend is None else sdpa_kernel(backend):
        for _ in range(10):
            work()


def _seconds(ten: Work, args: argparse.Namespace) -> float:
    return time_together({"": ten}, rounds=args.rounds, device=args.device)[""] / 10


def parse() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--batch", type=int, default=8)
    made.add_argument("--frames", type=int, default=1024)
    made.add_argument("--modes", nargs="*", choices=list(STEPS), default=["compiled"])
    made.add_argument("--most", type=int, default=25, help="kernels to print by themselves")
    made.add_argument("--heads", type=int, default=24)
    made.add_argument("--head-width", type=int, default=64)
    shapes = "clips x queries x keys"
    made.add_argument("--attention", nargs="*", default=["8x1025x1025", "8x1025x130"], help=shapes)
    return made.parse_args()


if __name__ == "__main__":
    main()
