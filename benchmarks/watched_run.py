"""A short training run on the CPU in a process of its own, with its memory, times and loss."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from stable_audio.checkpoints import export
from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.training.options import RunOptions
from stable_audio.training.saving.checkpoint_io import tensor_bytes
from stable_audio.training.trainer import assemble

with contextlib.suppress(ImportError):
    import torchao.optim  # noqa: F401  # here, so that no row pays for the import

PATCH = 64


def optimizer(kind: str, **options: Any) -> dict[str, Any]:
    """The `training` section for an optimizer at a learning rate of 3e-4."""
    config = {"type": kind, "config": {"lr": 3e-4, **options}}
    return {"optimizer_configs": {"diffusion": {"optimizer": config}}}


def in_own_process(work: Any, *arguments: Any, **options: Any) -> Any:
    """The result of a function of this module in a process that has done nothing but import it.

    The processes come from a server that has no threads: torch's would be waited for in vain after a fork.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(work, *arguments, **options).result()
    except BrokenProcessPool as error:
        raise SystemExit(f"{work.__name__}{arguments}: the process failed") from error


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


def measure(args: argparse.Namespace, training: dict[str, Any], **options: Any) -> dict[str, float]:
    """Train for `args.steps` steps.

    Args:
        training: the `training` section.
        options: fields of `RunOptions`.

    Returns:
        bytes: "peak", "state" of the optimizers, "checkpoint" and "weights" as files; "seconds" of a step on
        the wall's clock and "busy" those of the processor, both medians; "loss", the mean of the last three;
        "parameters" and how many of them are "trained".
    """
    torch.set_num_threads(args.threads)
    watch = Watch(args.steps)
    with tempfile.TemporaryDirectory() as folder:
        run = assemble(
            load_config(model_config(args, training)),
            {"dataset_type": "synthetic"},
            RunOptions(
                save_dir=folder,
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
        files = {"checkpoint": "last.ckpt", "weights": "last.safetensors"}
        sizes = {key: (run.options.folder / name).stat().st_size for key, name in files.items()}
    steps = [b - a for a, b in itertools.pairwise(watch.ends)]
    parameters = list(run.module.model.parameters())
    return {
        **watch.memory,
        **sizes,
        "seconds": statistics.median(steps) if steps else 0.0,
        "busy": statistics.median(watch.busy[1:] or watch.busy),  # the first makes the optimizer's state
        "loss": statistics.mean(watch.losses[-3:]),
        "parameters": sum(p.numel() for p in parameters),
        "trained": sum(p.numel() for p in parameters if p.requires_grad),
    }


def write_base(args: argparse.Namespace, folder: Path) -> Path:
    """A model none of whose layers is 0, as the last ones of a new one are: rows of 0 have no norm."""
    torch.manual_seed(0)
    config = model_config(args, {"learning_rate": 1e-4})
    model = create_model_from_config(load_config(config))
    for parameter in model.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.02)
    return export(model, folder / "base.safetensors", config=config)


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


def status(key: str) -> int:
    """A size in bytes from the status of this process, on Linux."""
    for line in Path(f"/proc/{os.getpid()}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"this system has no {key}")
