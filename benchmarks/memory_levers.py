"""What saves memory in training: peak memory, time and loss of each setting beside plain AdamW, on a CPU.

    python benchmarks/memory_levers.py [--dim 640 --depth 6 --steps 20 --only "plain AdamW"]

Every row is a run in a process of its own. Memory is the most that the process held while it trained, less
what it held before the model was built. The loss is the mean over the last three steps, from the same data
and noise.
Takes about ten minutes of one CPU core.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from common import print_table

from stable_audio.config import load_config
from stable_audio.training.checkpoint_io import tensor_bytes
from stable_audio.training.options import RunOptions
from stable_audio.training.trainer import assemble

with contextlib.suppress(ImportError):
    import torchao.optim  # noqa: F401  # here, so that no row pays for the import

PATCH = 64
FORK = multiprocessing.get_context("fork")


def optimizer(kind: str, **options: Any) -> dict[str, Any]:
    """The `training` section for an optimizer at a learning rate of 3e-4."""
    config = {"type": kind, "config": {"lr": 3e-4, **options}}
    return {"optimizer_configs": {"diffusion": {"optimizer": config}}}


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
        found = in_own_process(measure, name, args)
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
    parser.add_argument("--only", choices=list(ROWS), help="one row")
    return parser.parse_args()


def in_own_process(work: Any, *arguments: Any) -> Any:
    """The result of a function in a process that has done nothing but import what all rows need."""
    ours, theirs = FORK.Pipe(duplex=False)
    process = FORK.Process(target=lambda: theirs.send(work(*arguments)))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError as error:
        raise SystemExit(f"{work.__name__}{arguments}: the process failed") from error
    finally:
        process.join()


def model_config(args: argparse.Namespace, training: dict[str, Any]) -> dict[str, Any]:
    """A DiT on patches of 64 samples."""
    backbone = {
        "io_channels": PATCH,
        "embed_dim": args.dim,
        "depth": args.depth,
        "num_heads": max(1, args.dim // 64),
        "global_cond_dim": 64,
    }
    return {
        "model_type": "diffusion_cond",
        "sample_size": PATCH * args.frames,
        "sample_rate": 8000,
        "audio_channels": 1,
        "model": {
            "io_channels": PATCH,
            "pretransform": {"type": "patched", "config": {"channels": 1, "patch_size": PATCH}},
            "diffusion": {
                "type": "dit",
                "diffusion_objective": "rectified_flow",
                "config": backbone,
                "global_cond_ids": ["seconds_total"],
            },
            "conditioning": {
                "cond_dim": 64,
                "configs": [{"id": "seconds_total", "type": "number", "config": {"max_val": 10}}],
            },
        },
        "training": training,
    }


def measure(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Train as a row says; peak memory in bytes, median seconds per step, loss and number of parameters."""
    training, options = ROWS[name]
    with tempfile.TemporaryDirectory() as folder:
        run, watch = watched_run(args, training, Path(folder), **options)
    steps = [b - a for a, b in itertools.pairwise(watch.ends)]
    return {
        **watch.memory,
        "seconds": statistics.median(steps) if steps else 0.0,
        "loss": statistics.mean(watch.losses[-3:]),
        "parameters": sum(p.numel() for p in run.module.model.parameters()),
    }


class Watch(pl.Callback):
    """Reads clocks and the loss at each step, and memory after the last, before a checkpoint is written.

    Attributes:
        ends: when each step ended, on the wall's clock.
        busy: seconds of the processor that each step took.
        losses: loss of each step.
        memory: "peak" and "state", that of the optimizers, in bytes.
    """

    def __init__(self, steps: int) -> None:
        self.ends: list[float] = []
        self.busy: list[float] = []
        self.losses: list[float] = []
        self.memory: dict[str, float] = {}
        self._steps, self._before, self._start = steps, status("VmRSS"), 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self._start = time.process_time()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        self.busy.append(time.process_time() - self._start)
        self.ends.append(time.perf_counter())
        self.losses.append(float(outputs["loss"]))
        if trainer.global_step == self._steps:
            self.memory["peak"] = status("VmHWM") - self._before
            self.memory["state"] = tensor_bytes([o.state_dict()["state"] for o in trainer.optimizers])


def watched_run(
    args: argparse.Namespace, training: dict[str, Any], folder: Path, **options: Any
) -> tuple[Any, Watch]:
    """Train for `args.steps` steps on the CPU.

    Args:
        training: the `training` section.
        folder: where the folder `run` of the run is to be.
        options: fields of `RunOptions`.
    """
    watch = Watch(args.steps)
    run = assemble(
        load_config(model_config(args, training)),
        {"dataset_type": "synthetic"},
        RunOptions(
            save_dir=str(folder),
            batch_size=args.batch,
            num_workers=0,
            max_steps=args.steps,
            accelerator="cpu",
            devices="1",
            logger="none",
            checkpoint_every=0,
            progress=False,
            **options,
        ),
    )
    run.trainer.callbacks.insert(1, watch)  # type: ignore[attr-defined]
    run.start()
    return run, watch


def status(key: str) -> int:
    """A size in bytes from the status of this process, on Linux."""
    for line in Path(f"/proc/{os.getpid()}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"this system has no {key}")


if __name__ == "__main__":
    main()
