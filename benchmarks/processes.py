"""Planned and measured: one process, and several that share a batch, with each strategy, as real runs.

    python benchmarks/processes.py [--dim 512 --depth 6 --frames 256 --batch 4 --steps 5 --only fsdp]

Every row is a run of a DiT with AdamW and an average, and another one that goes on from its checkpoint. All
rows train on the same clips per step. Memory is the greatest private memory of a process (USS), sampled every
10 ms, less what it had before the run was assembled; the plan is that of `stable-audio plan --device-type
cpu`. Processes share the cores of a machine: processor time per step and process says what a strategy costs
where each has a device of its own. Checkpoints are not written in the background, for which there would be
a copy that the plan leaves out. glibc gives freed memory back, as in memory_measured.py.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import print_table
from memory_measured import MALLOC

ROWS: dict[str, tuple[int, dict[str, Any]]] = {
    "one process": (1, {}),
    "ddp, 2 processes": (2, {"strategy": "ddp"}),
    "fsdp, 2 processes": (2, {"strategy": "fsdp"}),
    "fsdp in parts, 2 processes": (2, {"strategy": "fsdp", "checkpoint_format": "shards"}),
    "ddp, 4 processes": (4, {"strategy": "ddp"}),
    "fsdp, 4 processes": (4, {"strategy": "fsdp"}),
    "hsdp, 4 processes": (4, {"strategy": "hsdp", "shard_size": 2}),
}
"""Row -> how many processes, and options of the run."""


def main() -> None:
    args = parse()
    if args.child:
        child(args)
        return
    names = [name for name in ROWS if not args.only or name.startswith(tuple(args.only))]
    size = f"DiT of depth {args.depth} and width {args.dim}, {args.frames} frames"
    print(f"{size}, {args.batch} clips per step")
    titles = ("MiB planned", "MiB measured", "planned / measured", "s per step", "CPU s per step and process")
    rows = []
    for name in names:
        rows.append(_row(name, measure(name, args)))
        print()  # at once, since the next one takes minutes
        print_table(("run", *titles, "checkpoint, s", "resume, s"), rows)
        sys.stdout.flush()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in {"dim": 512, "depth": 6, "frames": 256, "batch": 4, "steps": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", nargs="*", help="rows that begin so")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def _row(name: str, results: list[dict[str, float]]) -> tuple[Any, ...]:
    """The process with the most memory; times of the first one."""
    measured, planned = max(r["measured"] for r in results), results[0]["planned"]
    times = [results[0][key] for key in ("step", "cpu", "checkpoint", "resume")]
    return (name, planned / 2**20, measured / 2**20, planned / measured, *times)


def measure(name: str, args: argparse.Namespace) -> list[dict[str, float]]:
    """What each process of a run found."""
    count = ROWS[name][0]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        sizes = [f"--{key}={getattr(args, key)}" for key in ("dim", "depth", "frames", "batch", "steps")]
        command = [sys.executable, __file__, *sizes, "--child", name, folder]
        shared = {**os.environ, **MALLOC, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        several = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)} if count > 1 else {}
        with ExitStack() as stack:
            processes = []
            for rank in range(count):
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if several else {}
                process = subprocess.Popen(
                    command, env={**shared, **several, **own}, stdout=subprocess.PIPE, text=True
                )
                stack.callback(process.kill)  # none is left behind where this one is stopped
                processes.append(process)
            outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"{name}: a process has ended with an error")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def child(args: argparse.Namespace) -> None:
    """Train as one process of a run; print what was found as JSON."""
    import torch

    from stable_audio.training.memory_plan.choice import choice_of
    from stable_audio.training.memory_plan.plan import Planner
    from stable_audio.training.memory_plan.processes import sharing_of
    from stable_audio.training.options import RunOptions
    from stable_audio.training.trainer import assemble

    torch.set_num_threads(1)
    name, folder = args.child
    processes, settings = ROWS[name]
    config = _config(args)
    given = {
        "save_dir": folder,
        "name": "run",
        "batch_size": args.batch // processes,
        "max_steps": args.steps,
        "num_workers": 0,
        "accelerator": "cpu",
        "devices": "auto",
        "progress": False,
        "checkpoint_every": 0,
        "background_checkpoints": False,
        "log_every": 1,
        **settings,
    }
    options = RunOptions(**given)
    choice = choice_of(config, options, precision="32-true", sharing=sharing_of(options, processes))
    planned = Planner(config, device="cpu").plan(choice)
    with _Memory() as memory:
        run = assemble(config, {"dataset_type": "synthetic"}, options)
        times = _Times()
        run.trainer.callbacks.append(times.callback())  # type: ignore[attr-defined]
        run.start()
    began = time.perf_counter()
    more = {**given, "max_steps": args.steps + 1, "recover": True}
    again = assemble(config, {"dataset_type": "synthetic"}, RunOptions(**more))
    resumed = _Times()
    again.trainer.callbacks.append(resumed.callback())  # type: ignore[attr-defined]
    again.start()
    found = {
        "planned": planned.without_libraries,
        "measured": memory.peak,
        "step": statistics.median(times.walls[1:]),
        "cpu": statistics.median(times.cpus[1:]),
        "checkpoint": run.checkpoints.seconds if run.checkpoints is not None else 0.0,
        "resume": resumed.first - began,
    }
    print(json.dumps(found))


class _Times:
    """Wall-clock and processor time of each step, and when the first one began."""

    def __init__(self) -> None:
        self.walls: list[float] = []
        self.cpus: list[float] = []
        self.first = 0.0

    def callback(self) -> Any:
        import lightning.pytorch as pl

        times, began = self, [0.0, 0.0]

        class Timing(pl.Callback):
            def on_train_batch_start(self, *_: Any) -> None:
                times.first = times.first or time.perf_counter()
                began[:] = time.perf_counter(), time.process_time()

            def on_train_batch_end(self, *_: Any) -> None:
                times.walls.append(time.perf_counter() - began[0])
                times.cpus.append(time.process_time() - began[1])

        return Timing()


class _Memory:
    """Greatest private memory of this process within the context, less that at its beginning."""

    def __enter__(self) -> _Memory:
        self.peak, self._done = 0, threading.Event()
        self._before = _private()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.peak = max(self.peak, _private() - self._before)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def _private() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_"))


def _config(args: argparse.Namespace) -> Any:
    from stable_audio.config import load_config

    backbone = {"io_channels": 64, "embed_dim": args.dim, "depth": args.depth, "num_heads": args.dim // 64}
    seconds = {"id": "seconds_total", "type": "number", "config": {"min_val": 0, "max_val": 9}}
    return load_config(
        {
            "model_type": "diffusion_cond",
            "sample_size": args.frames * 64,
            "sample_rate": 16000,
            "audio_channels": 1,
            "model": {
                "io_channels": 64,
                "pretransform": {"type": "patched", "config": {"channels": 1, "patch_size": 64}},
                "diffusion": {
                    "type": "dit",
                    "diffusion_objective": "rectified_flow",
                    "global_cond_ids": ["seconds_total"],
                    "config": {**backbone, "global_cond_dim": 64},
                },
                "conditioning": {"configs": [seconds], "cond_dim": 64},
            },
            "training": {"learning_rate": 1e-4},
        }
    )


if __name__ == "__main__":
    main()
