"""Planned and measured memory of training steps, each in a process of its own.

    python benchmarks/memory_measured.py            three sizes, all weights and an adapter, on the CPU
    python benchmarks/memory_measured.py --recomputed    the medium size by what the backward pass recomputes
    python benchmarks/memory_measured.py --cuda     the same on the first GPU, by max_memory_allocated

On the CPU the greatest resident memory is measured, less what the process had before the model was built.
glibc would keep freed blocks, so that the processes run with MALLOC_ARENA_MAX=1,
MALLOC_MMAP_THRESHOLD_=65536 and MALLOC_TRIM_THRESHOLD_=0. Takes three minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SIZES = {"small": (256, 4), "medium": (512, 6), "large": (768, 8)}
"""Name -> width and depth of the transformer."""

FRAMES, BATCH, RANK, STEPS = 512, 4, 16, 3
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def model_file(size: str) -> dict[str, Any]:
    """A transformer on 64 channels of latents."""
    width, depth = SIZES[size]
    backbone = {"io_channels": 64, "embed_dim": width, "depth": depth, "num_heads": width // 64}
    seconds = {"id": "seconds", "type": "number", "config": {"min_val": 0, "max_val": 9}}
    return {
        "model_type": "diffusion_cond",
        "sample_size": FRAMES,
        "sample_rate": 1000,
        "audio_channels": 64,
        "model": {
            "io_channels": 64,
            "diffusion": {
                "type": "dit",
                "diffusion_objective": "rectified_flow",
                "global_cond_ids": ["seconds"],
                "config": {**backbone, "global_cond_dim": 64},
            },
            "conditioning": {"configs": [seconds], "cond_dim": 64},
        },
        "training": {"learning_rate": 1e-4},
    }


def child(size: str, rank: int | None, device: str, recomputed: Any = False) -> dict[str, float]:
    """Train in this process; the plan and what was measured, in bytes."""
    import torch

    from stable_audio.config import load_config
    from stable_audio.factory import create_model_from_config
    from stable_audio.training.build import build_training
    from stable_audio.training.memory_plan.choice import Choice, configured
    from stable_audio.training.memory_plan.plan import Planner
    from stable_audio.training.memory_plan.turns import turns_of
    from stable_audio.training.options import RunOptions
    from stable_audio.training.transforms import transforms_for
    from stable_audio.transforms.recorded import apply_transforms

    torch.set_num_threads(1)
    config = load_config(model_file(size))
    average = "device" if rank is None else "none"
    choice = Choice(batch_size=BATCH, rank=rank, average=average, checkpointing=recomputed)
    plan = Planner(config, device=device).plan(choice)
    changed = configured(config, choice)
    before = _resident(device, reset=True)
    model = create_model_from_config(changed)
    apply_transforms(model, transforms_for(changed, RunOptions()))
    module = build_training(changed, model).to(device).train()
    (turn,) = turns_of(module, BATCH, FRAMES)
    optimizer = module.configure_optimizers()
    optimizer = optimizer["optimizer"] if isinstance(optimizer, dict) else optimizer
    if module.ema is not None:
        module.ema.start()
    with torch.device(device):
        for _ in range(STEPS):
            loss = turn.forward(turn.encode())
            optimizer.zero_grad()  # after the forward pass, as Lightning does
            loss.backward()
            optimizer.step()
    measured = _resident(device) - before
    return {"planned": plan.without_libraries, "measured": measured, "before": before}


def _resident(device: str, *, reset: bool = False) -> int:
    """Bytes in use now if `reset`, which lets the greatest count start anew; otherwise the greatest count."""
    import torch

    if device == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() if reset else torch.cuda.max_memory_allocated()
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    key = "VmRSS:" if reset else "VmHWM:"
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def measure(
    size: str, rank: int | None, device: str = "cpu", recomputed: bool | str = False
) -> dict[str, float]:
    """Run `child` in a process of its own."""
    command = [sys.executable, __file__, "--child", size, str(rank or 0), device, json.dumps(recomputed)]
    result = subprocess.run(command, env={**os.environ, **MALLOC}, capture_output=True, text=True, check=True)
    values: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return values


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cuda", action="store_true", help="measure on the first GPU")
    parser.add_argument("--recomputed", action="store_true", help="compare gradient checkpointing")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        size, rank, device, recomputed = args.child
        print(json.dumps(child(size, int(rank) or None, device, json.loads(recomputed))))
        return
    print("| model | trained | recomputed | planned | measured | planned / measured |")
    print("|---|---|---|---|---|---|")
    for size in ["medium"] if args.recomputed else SIZES:
        for recomputed in (False, "elementwise", True) if args.recomputed else (False,):
            for rank in (None, RANK):
                print_row(size, rank, "cuda" if args.cuda else "cpu", recomputed)


def print_row(size: str, rank: int | None, device: str, recomputed: bool | str) -> None:
    """Measure one row of the table."""
    row = measure(size, rank, device, recomputed)
    planned, measured = (f"{row[k] / 2**20:.0f} MiB" for k in ("planned", "measured"))
    trained = "all weights" if rank is None else f"adapter of rank {rank}"
    ratio = row["planned"] / row["measured"]
    print(
        f"| {size} | {trained} | {json.dumps(recomputed)} | {planned} | {measured} | {ratio:.2f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
