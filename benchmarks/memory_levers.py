"""What saves memory in training: peak memory, time and loss of each setting beside plain AdamW, on a CPU.

    python benchmarks/memory_levers.py [--dim 640 --depth 6 --steps 20 --only "plain AdamW"]

Every row is a run in a process of its own. Memory is the most that the process held while it trained, less
what it held before the model was built. The loss is the mean over the last three steps, from the same data
and noise.
Takes about ten minutes of one CPU core.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from common import print_table
from watched_run import in_own_process, measure, optimizer

PLAIN = "plain AdamW"
BF16 = {"precision": "bf16-true"}
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    PLAIN: (optimizer("AdamW"), {}),
    "AdamW8bit": (optimizer("AdamW8bit"), {}),
    "AdamW4bit": (optimizer("AdamW4bit"), {}),
    "AdamWFp8": (optimizer("AdamWFp8"), {}),
    "Adafactor": (optimizer("Adafactor", lr=3e-3), {}),
    "gradient_release": ({**optimizer("AdamW"), "gradient_release": True}, {}),
    "gradient_checkpointing": ({**optimizer("AdamW"), "gradient_checkpointing": True}, {}),
    "gradient_checkpointing 2": ({**optimizer("AdamW"), "gradient_checkpointing": 2}, {}),
    "gradient_checkpointing elementwise": (
        {**optimizer("AdamW"), "gradient_checkpointing": "elementwise"},
        {},
    ),
    "use_ema false": ({**optimizer("AdamW"), "use_ema": False}, {}),
    "bf16-true, AdamW": (optimizer("AdamW"), BF16),
    "bf16-true, AdamWBF16": (optimizer("AdamWBF16"), BF16),
    "bf16-true, AdamW8bit": (optimizer("AdamW8bit", bf16_stochastic_round=True), BF16),
    "all: bf16-true, AdamW8bit, release, checkpointing, no EMA": (
        {
            **optimizer("AdamW8bit", bf16_stochastic_round=True),
            "gradient_release": True,
            "gradient_checkpointing": True,
            "use_ema": False,
        },
        BF16,
    ),
}
"""Name of a row -> its `training` section and its options of the run."""


def main() -> None:
    args = parse()
    names = [args.only] if args.only else list(ROWS)
    base: dict[str, float] = {}
    rows = []
    for name in names:
        training, options = ROWS[name]
        found = in_own_process(measure, args, training, **options)
        base = base or found
        print(name, found, file=sys.stderr, flush=True)
        rows.append(
            [
                name,
                f"{found['peak'] / 2**20:.0f} MiB",
                f"{found['peak'] / base['peak']:.2f}",
                f"{found['state'] / 2**20:.1f} MiB",
                f"{found['seconds']:.2f} s",
                f"{found['seconds'] / base['seconds']:.2f}",
                f"{found['loss']:.4f}",
            ]
        )
    print(
        f"{base['parameters'] / 1e6:.1f} M parameters, batches of {args.batch} clips of {args.frames} frames"
    )
    print_table(["setting", "peak memory", "ratio", "optimizer", "step", "ratio", "loss"], rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dim", type=int, default=640)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=list(ROWS), help="one row")
    return parser.parse_args()


if __name__ == "__main__":
    main()
