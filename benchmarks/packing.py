"""Training step of a DiT on clips of many lengths: padded, in buckets, and packed into shared rows.

python benchmarks/packing.py [--depth 8 --dim 512 --frames 256 --rows 4 --shortest 0.1 --multiple 1 --compile]

The same clips in every case, in one process; lengths spread evenly on a log scale from --shortest x
--frames to --frames. "padded" makes all clips as long as the longest, "buckets" as long as the next of
--frames x 1/4, 1/2, 3/4, 1, in one batch per bucket, and "packed" computes real frames only, with
the kernel that is chosen for attention, whose name and reason are printed, and with others. Bound: the matrix
products and attention of as many real frames, in clips of one length.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from unittest import mock

import torch
from common import (
    Work,
    add_model_arguments,
    bound_step,
    build_dit,
    describe_machine,
    new_parser,
    peak_memory,
    print_table,
    time_together,
)
from torch import Tensor

from stable_audio.backbones import DiT
from stable_audio.data.packing import pack_rows
from stable_audio.nn import transformer
from stable_audio.nn.compiling import compile_network
from stable_audio.nn.row_attention import EqualRuns, PaddedGroups, RowAttention
from stable_audio.nn.row_kernels import RowKernel, available, row_kernel
from stable_audio.training.diffusion.frame_masks import frame_mask
from stable_audio.types import Conditioning

BUCKETS = (0.25, 0.5, 0.75, 1.0)
OTHER_KERNELS = {
    "a call per clip": lambda lengths, places: EqualRuns(tuple((n, 1) for n in lengths)),
    "padded groups": PaddedGroups.of,
}
"""Ways to compute attention beside the chosen one."""


def main() -> None:
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    place = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    dit = build_dit(args).to(**place)
    optimizer = torch.optim.AdamW(dit.parameters(), lr=1e-6, fused=True)
    lengths = clips(args)
    real = sum(lengths)
    clip_inputs = torch.randn(len(lengths), args.channels, args.frames, **place)
    context = torch.randn(len(lengths), args.context, args.dim, **place)
    t = torch.rand(len(lengths), device=args.device)

    def loss(items: Sequence[int], n: int, *, packed: bool, network: DiT) -> Tensor:
        """Squared output over real frames, as a share of the step."""
        own = [lengths[i] for i in items]
        x, cond = clip_inputs[items, :, :n], Conditioning(cross_attn=context[items])
        out = network.forward_packed(x, t[items], cond, own) if packed else network(x, t[items], cond)
        return (out.square() * frame_mask(own, n).to(out.device)).sum() / (real * args.channels)

    def step(
        batches: Sequence[tuple[Sequence[int], int]], *, packed: bool = False, network: DiT = dit
    ) -> None:
        for items, n in batches:
            loss(items, n, packed=packed, network=network).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    everything = list(range(len(lengths)))
    longest = max(lengths)
    buckets = in_buckets(lengths, args.frames)
    works: dict[str, Work] = {
        "padded": lambda: step([(everything, longest)]),
        "buckets": lambda: step(buckets),
        "packed": lambda: step([(everything, longest)], packed=True),
    }
    for name, make in OTHER_KERNELS.items():
        works[f"packed, {name}"] = with_kernel(make, works["packed"])
    if args.compile:
        compiled = copy.deepcopy(dit)
        for own, shared in zip(compiled.parameters(), dit.parameters()):
            own.data = shared.data
        compile_network(compiled)
        works["packed, compiled"] = lambda: step([(everything, longest)], packed=True, network=compiled)
    works["bound"] = bound_step(args, items=len(lengths), tokens=real // len(lengths), place=place)
    computed = {
        "padded": len(lengths) * longest,
        "buckets": sum(len(items) * n for items, n in buckets),
    }
    need = replace(dit.transformer.row_needs, device=torch.device(args.device), dtype=place["dtype"])
    chosen = row_kernel(need, available(need.device))
    print(f"DiT depth {args.depth}, width {args.dim}; {len(lengths)} clips of {min(lengths)} to {longest}")
    print(
        f"frames, {real} in all, in {args.rows} rows of {args.frames} ({real / args.rows / args.frames:.0%})"
    )
    print(f"attention of packed rows: {chosen.name}, since {chosen.why}")
    print(f"{describe_machine(args.device, args.dtype)}\n")
    seconds = time_together(works, rounds=args.rounds, device=args.device)
    rows = [
        (
            name,
            seconds[name],
            real / seconds[name],
            seconds["padded"] / seconds[name],
            computed["padded"] / computed.get(name, real),
            seconds[name] / seconds["bound"],
            peak_memory(work, args.device) / 2**20,
        )
        for name, work in works.items()
    ]
    print_table(("", "s/step", "real frames/s", "times faster", "fewer frames", "to bound", "peak MiB"), rows)


def parse() -> argparse.Namespace:
    parser = new_parser(__doc__)
    add_model_arguments(parser)
    parser.add_argument("--rows", type=int, default=4, help="rows of --frames that the clips fill")
    parser.add_argument("--multiple", type=int, default=1, help="frames that lengths are multiples of")
    parser.add_argument("--compile", action="store_true", help="a compiled network, too")
    parser.add_argument("--shortest", type=float, default=0.1, help="shortest clip, as a share of a row")
    return parser.parse_args()


def clips(args: argparse.Namespace) -> list[int]:
    """Lengths of the clips in a few rows out of many."""
    draws = torch.rand(64 * args.rows, generator=torch.Generator().manual_seed(0))
    whole = args.frames // args.multiple
    lengths = [args.multiple * math.ceil(whole * args.shortest ** float(u)) for u in draws]
    packed = pack_rows(lengths, args.frames)
    chosen = packed[:: max(1, len(packed) // args.rows)][: args.rows]  # from all over, as in shuffled rows
    return [lengths[i] for row in chosen for i in row]


def with_kernel(make: Callable[..., RowAttention], work: Work) -> Work:
    """`work` with another kernel for the attention of rows."""

    def run() -> None:
        with mock.patch.object(transformer, "row_kernel", return_value=RowKernel("", "", make)):
            work()

    return run


def in_buckets(lengths: Sequence[int], frames: int) -> list[tuple[list[int], int]]:
    """(items, padded length) per bucket that has items."""
    ends = [math.ceil(frames * share) for share in BUCKETS]
    items: dict[int, list[int]] = {end: [] for end in ends}
    for i, n in enumerate(lengths):
        items[next(end for end in ends if n <= end)].append(i)
    return [(found, end) for end, found in items.items() if found]


if __name__ == "__main__":
    main()
