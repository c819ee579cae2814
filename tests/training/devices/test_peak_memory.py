"""A run holds its weights once per purpose: at its start, in steps, demos and files, and when resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]

SCRIPT = """
import json, sys, threading, time
from pathlib import Path

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

from stable_audio.config import load_config
from stable_audio.data.foresight import count_refusals
from stable_audio.training.callbacks import summary
from stable_audio.training.options import RunOptions
from stable_audio.training.trainer import assemble

summary.planned = lambda *_, **__: None
count_refusals.__kwdefaults__["most"] = 50
config, options = json.loads(sys.argv[1])
stage, peaks, before = "start", {}, anonymous()

def watch():
    while stage != "end":
        peaks[stage] = max(peaks.get(stage, 0), anonymous() - before)
        time.sleep(0.005)

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


def _peaks(folder: Path, **options: Any) -> dict[str, float]:
    from tests.training.building import demo_section, tiny_config

    adam = {"diffusion": {"optimizer": {"type": "AdamW", "config": {"lr": 1e-4}}}}
    config = tiny_config(optimizer_configs=adam, demo=demo_section(demo_every=2, demo_steps=1))
    config["model"]["diffusion"]["config"].update(embed_dim=512, depth=5, num_heads=8, ff_kwargs={"mult": 4})
    settings = {"save_dir": str(folder), "batch_size": 1, "num_workers": 0, "accelerator": "cpu"}
    settings |= {"devices": "1", "progress": False, "background_checkpoints": False, **options}
    settings["precision"] = "32-true"  # what measures the other takes some memory at the start, of no model
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([config, settings])],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    peaks = json.loads(done.stdout.splitlines()[-1])
    assert peaks["status"] == 0
    return peaks


FIXED = 64 * 2**20
"""Bytes of libraries that are imported on the way, and of activations: fewer than the weights have."""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_no_copy_of_the_model_is_hidden(tmp_path: Path) -> None:
    """Weights, gradients, two averages of AdamW and the average of weights are five times the weights."""
    new = _peaks(tmp_path, max_steps=1)
    resumed = _peaks(tmp_path, max_steps=2, recover=True)
    weights = new["weights"]
    assert weights > 1.5 * FIXED
    for peaks in (new, resumed):
        assert peaks["start"] < weights + FIXED
        assert peaks["run"] < 5 * weights + FIXED
