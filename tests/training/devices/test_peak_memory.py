"""A run holds its weights once per purpose: at its start, in steps, demos and files, and when resumed.

Of a checkpoint in parts, its export holds those of the file that it writes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]

WATCHING = """
import json, sys, threading, time
from pathlib import Path

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

def watch():
    while stage != "end":
        peaks[stage] = max(peaks.get(stage, 0), anonymous() - before)
        time.sleep(0.005)

"""

TRAINING = """
from stable_audio.config import load_config
from stable_audio.data.foresight import count_refusals
from stable_audio.training.callbacks import summary
from stable_audio.training.options import RunOptions
from stable_audio.training.trainer import assemble

summary.planned = lambda *_, **__: None
count_refusals.__kwdefaults__["most"] = 50
config, options = json.loads(sys.argv[1])
stage, peaks, before = "start", {}, anonymous()
thread = threading.Thread(target=watch)
thread.start()
run = assemble(load_config(config), {"dataset_type": "synthetic"}, RunOptions(**options))
weights = sum(p.nbytes for p in run.module.model.parameters())
stage = "run"
status = run.start()
stage = "end"
thread.join()
print(json.dumps({"status": status, "weights": weights, **peaks}))
"""

EXPORT = """
import torch.distributed.checkpoint.state_dict_loader
import stable_audio.factory
from stable_audio.checkpoints.convert import convert_checkpoint

parts, output = map(Path, json.loads(sys.argv[1]))
stage, peaks, before = "export", {}, anonymous()
thread = threading.Thread(target=watch)
thread.start()
convert_checkpoint(parts, output)
stage = "end"
thread.join()
print(json.dumps({"file": output.stat().st_size, **peaks}))
"""

SMALL, LARGE = {"embed_dim": 512, "depth": 5}, {"embed_dim": 2048, "depth": 3}
"""Models of 26 and of 260 million weights."""


def _measured(script: str, given: Any) -> dict[str, float]:
    """Anonymous memory of a process beyond what it has imported, at its greatest in each stage."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHING + script, json.dumps(given)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    peaks: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return peaks


def _peaks(folder: Path, size: dict[str, int], **options: Any) -> dict[str, float]:
    from tests.training.building import demo_section, tiny_config

    adam = {"diffusion": {"optimizer": {"type": "AdamW", "config": {"lr": 1e-4}}}}
    config = tiny_config(optimizer_configs=adam, demo=demo_section(demo_every=2, demo_steps=1))
    config["model"]["diffusion"]["config"].update(num_heads=8, ff_kwargs={"mult": 4}, **size)
    settings = {"save_dir": str(folder), "batch_size": 1, "num_workers": 0, "accelerator": "cpu"}
    settings |= {"devices": "1", "progress": False, "background_checkpoints": False, **options}
    settings["precision"] = "32-true"  # what measures the other takes some memory at the start, of no model
    peaks = _measured(TRAINING, [config, settings])
    assert peaks["status"] == 0
    return peaks


FIXED = 64 * 2**20
"""Bytes of libraries that are imported on the way, and of activations: fewer than the weights have."""

READS_PROC = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")


@pytest.mark.slow
@READS_PROC
def test_no_copy_of_the_model_is_hidden(tmp_path: Path) -> None:
    """Weights, gradients, two averages of AdamW and the average of weights are five times the weights."""
    new = _peaks(tmp_path, SMALL, max_steps=1)
    resumed = _peaks(tmp_path, SMALL, max_steps=2, recover=True)
    weights = new["weights"]
    assert weights > 1.5 * FIXED
    for peaks in (new, resumed):
        assert peaks["start"] < weights + FIXED
        assert peaks["run"] < 5 * weights + FIXED


@pytest.mark.slow
@READS_PROC
def test_no_half_copy_of_a_large_model_is_hidden(tmp_path: Path) -> None:
    """Its weights are so many that libraries and activations are a small part of them.

    At its start 1.01, in its run 5.03, resumed 5.06 times the weights when this was written.
    """
    try:
        new = _peaks(tmp_path, LARGE, max_steps=1)
        resumed = _peaks(tmp_path, LARGE, max_steps=2, recover=True)
    finally:
        shutil.rmtree(tmp_path)  # pytest would keep its gigabytes
    for peaks in (new, resumed):
        assert peaks["weights"] > 1e9
        assert peaks["start"] < 1.1 * peaks["weights"]
        assert peaks["run"] < 5.3 * peaks["weights"]


@pytest.mark.slow
@READS_PROC
def test_export_of_parts_takes_the_memory_of_the_file(tmp_path: Path) -> None:
    """Of parts that hold the average and the state of the optimizer, too: four times the file."""
    _peaks(tmp_path, {"embed_dim": 768, "depth": 5}, max_steps=1, checkpoint_format="shards")
    parts, output = tmp_path / "run" / "checkpoints" / "step=00000001.shards", tmp_path / "out.safetensors"
    found = _measured(EXPORT, [str(parts), str(output)])
    assert found["file"] > 2e8
    assert found["export"] < 1.3 * found["file"]
