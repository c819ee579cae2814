"""What extrapolated outputs of the network cost in accuracy, and what they save, on the quickstart's model.

    make demo
    python benchmarks/forecast.py --ckpt-path runs/demo/quickstart

For each setting: evaluations, time of sampling relative to all evaluations (interleaved rounds, the
shortest of each), error of the latents relative to their deviation, and what the listener of the quickstart
says. The last column spends as many evaluations on fewer steps instead, without extrapolation.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_audio import generate, load_model
from stable_audio.evaluation.quickstart_models import evaluator_for

SETTINGS = [(1, 0), (2, 0), (2, 1), (2, 2), (3, 1), (3, 2), (4, 1)]


@dataclass
class Row:
    """One setting: its evaluations, its shortest time and its latents."""

    every: int
    order: int
    evaluations: int = 0
    seconds: float = float("inf")
    latents: Tensor | None = None


class Bench:
    """The clips that all settings render, from the same noise."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.model: Any = load_model(args.ckpt_path)[0]
        self.evaluator = evaluator_for(self.model)
        self.requests = self.evaluator.requests(step=args.every)
        self.cfg_scale, self.batch = args.cfg_scale, args.batch_size
        self.calls = 0
        self.model.backbone.register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.calls += 1

    def latents(self, **settings: Any) -> tuple[Tensor, int, float]:
        """The latents of all clips, the evaluations for one of them, and the seconds."""
        self.calls, began = 0, time.perf_counter()
        latents = generate(
            self.model,
            [request.metadata() for request in self.requests],
            seeds=1,
            cfg_scale=self.cfg_scale,
            batch_size=self.batch,
            return_latents=True,
            **settings,
        )
        batches = -(-len(self.requests) // self.batch)
        return latents, self.calls // batches, time.perf_counter() - began

    def verdict(self, latents: Tensor) -> str:
        """Pitch and timbre, in words."""
        with torch.no_grad():
            clips = torch.cat([self.model.pretransform.decode(part) for part in latents.split(self.batch)])
        scores = self.evaluator.score(clips, self.requests)
        return f"{scores.pitch:.1%} / {scores.timbre:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt-path", type=Path, default=Path("runs/demo/quickstart"))
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--cfg-scale", type=float, default=1.5)
    parser.add_argument(
        "--every", type=int, default=6, help="take each N-th of the 438 requests (%(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=37)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    bench = Bench(args)
    rows = [Row(every, order) for every, order in SETTINGS]
    for _ in range(args.rounds):
        for row in rows:
            latents, evaluations, seconds = bench.latents(
                steps=args.steps, forecast_every=row.every, forecast_order=row.order
            )
            row.latents, row.evaluations, row.seconds = latents, evaluations, min(row.seconds, seconds)
    print(f"{len(bench.requests)} clips, {args.steps} steps, CFG {args.cfg_scale}", flush=True)
    print("| one in | degree | evaluations | time | error | pitch / timbre | as many steps |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(line(bench, row, rows[0]), flush=True)


def line(bench: Bench, row: Row, whole: Row) -> str:
    """A row of the table in Markdown."""
    assert row.latents is not None
    assert whole.latents is not None
    error = float((row.latents - whole.latents).std() / whole.latents.std())
    fewer, _, _ = bench.latents(steps=row.evaluations)
    fewer_error = float((fewer - whole.latents).std() / whole.latents.std())
    cells = [
        str(row.every),
        str(row.order) if row.every > 1 else "",
        str(row.evaluations),
        f"{row.seconds / whole.seconds:.2f}",
        f"{error:.3f}",
        bench.verdict(row.latents),
        f"{fewer_error:.3f}, {bench.verdict(fewer)}",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
