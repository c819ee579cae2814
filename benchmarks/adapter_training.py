"""What it takes to train an adapter of a model, against training the model itself, on a CPU.

    python benchmarks/adapter_training.py [--dim 512 --depth 6 --rank 16 --steps 8 --rounds 2]

Every row is a run of `train` in a process of its own, and rows take turns in every round. Time is what the
processor spent on a step, the median over steps and the least of the rounds. Memory is the most that the
process held while it trained, less what it held before the model was built. All runs start from the same
weights, see the same batches and keep no averaged weights, but for the row `full, averaged`.
Takes about four minutes of one CPU core.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import print_table
from watched_run import in_own_process, measure, optimizer, write_base

from stable_audio.adapters import ADAPTER_TYPES

FULL = "full"


def main() -> None:
    args = parse()
    rows = sections(args)
    with tempfile.TemporaryDirectory() as folder:
        base = in_own_process(write_base, args, Path(folder))
        turns = [
            {
                name: in_own_process(measure, args, training, pretrained_ckpt_path=str(base))
                for name, training in rows.items()
            }
            for _ in range(args.rounds)
        ]
    best = {name: {key: min(turn[name][key] for turn in turns) for key in turns[0][name]} for name in rows}
    print(f"DiT depth {args.depth}, width {args.dim}; batch {args.batch} x {args.frames} frames")
    print(f"rank {args.rank}; torch {torch.__version__}, {args.threads} thread(s)\n")
    print_table(
        (
            "trained",
            "values, M",
            "ms per step",
            "ratio",
            "peak, MiB",
            "ratio",
            "optimizer, MiB",
            "last.ckpt, MiB",
            "weights, MiB",
        ),
        [
            (
                name,
                row["trained"] / 1e6,
                1e3 * row["busy"],
                row["busy"] / best[FULL]["busy"],
                row["peak"] / 2**20,
                row["peak"] / best[FULL]["peak"],
                row["state"] / 2**20,
                row["checkpoint"] / 2**20,
                row["weights"] / 2**20,
            )
            for name, row in best.items()
        ],
    )


def sections(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Name of a row -> its `training` section."""
    plain = {**optimizer("AdamW"), "use_ema": False}
    adapters = {
        kind: {**plain, "lora_config": {"rank": args.rank, "adapter_type": kind}} for kind in args.types
    }
    return {FULL: plain, "full, averaged": {**plain, "use_ema": True}, **adapters}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--frames", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--types", nargs="+", default=["lora", "dora-rows", "bora"], choices=list(ADAPTER_TYPES)
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
