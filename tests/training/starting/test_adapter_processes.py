"""Runs that train an adapter, in processes of their own: killed, or two at once; and the size of files."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.adapters import AdapterSettings, AdapterStack
from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.factory import create_model_from_config
from tests.training.building import stored, tiny_config, tiny_run, write_files
from tests.training.saving.test_resume import ROOT, _wait_for_steps, assert_same_checkpoint
from tests.training.worlds import run_world

CONFIG = tiny_config(
    lora_config={"rank": 2, "adapter_type": "dora-cols", "dropout": 0.2}, cfg_dropout_prob=0.5
)


def start(folder: Path, base: Path, name: str, *flags: str, **changes: Any) -> subprocess.Popen[str]:
    config = {**CONFIG, "training": {**CONFIG["training"], **changes}}
    command = [sys.executable, str(ROOT / "train.py"), *write_files(folder, config), "--name", name]
    fixed = ["--save-dir", str(folder), "--accelerator", "cpu", "--pretrained-ckpt-path", str(base)]
    fixed += ["--precision", "32-true"]  # runs that are compared; each would measure for itself
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *fixed, *flags], env=environment, stderr=subprocess.PIPE, text=True, cwd=folder
    )


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    base = stored(tmp_path, ".safetensors", tiny_config())
    flags = ["--batch-size", "2", "--devices", "1", "--checkpoint-every", "3", "--num-workers", "0"]
    process = start(tmp_path, base, "killed", *flags)
    _wait_for_steps(process, tmp_path / "killed", 5)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=120)
    last = int(load_torch_file(tmp_path / "killed" / "last.ckpt")["stable_audio"]["step"]) + 3
    options = {"max_steps": last, "checkpoint_every": 3, "pretrained_ckpt_path": str(base), "demos": False}
    tiny_run(tmp_path, CONFIG, name="killed", recover=True, **options).start()
    tiny_run(tmp_path, CONFIG, name="whole", **options).start()
    assert_same_checkpoint(tmp_path / "whole" / "last.ckpt", tmp_path / "killed" / "last.ckpt")


@pytest.mark.slow
def test_two_processes_train_the_adapter_of_one(tmp_path: Path) -> None:
    base = stored(tmp_path, ".safetensors", tiny_config())
    lora = {"rank": 2, "adapter_type": "dora-rows"}  # dropout draws differ between processes
    for name, devices, size in (("one", "1", "4"), ("two", "2", "2")):
        flags = ["--max-steps", "4", "--devices", devices, "--batch-size", size, "--num-workers", "0"]
        process = start(tmp_path, base, name, *flags, lora_config=lora)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-2000:]
    one, two = (load_torch_file(tmp_path / n / "last.ckpt")["state_dict"] for n in ("one", "two"))
    assert one.keys() == two.keys()
    assert any(bool(value.any()) for key, value in one.items() if key.endswith("lora_B"))
    for key, value in one.items():
        assert torch.allclose(value, two[key], atol=1e-4), key


def _train(folder: Path, **options: Any) -> None:
    run = tiny_run(folder, CONFIG, checkpoint_every=0, demos=False, **options)
    assert run.start() == 0


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")
def test_an_adapter_on_another_one_with_split_weights_is_saved_and_goes_on(tmp_path: Path) -> None:
    """Layers with two adapters compute their weight, from parts that are no weight by themselves."""
    base = stored(tmp_path, ".safetensors", tiny_config())
    _train(tmp_path, name="first", max_steps=1, pretrained_ckpt_path=str(base))
    further = {
        "name": "second",
        "pretrained_ckpt_path": str(tmp_path / "first"),
        "devices": "auto",
        "strategy": "fsdp",
    }
    for steps in (1, 2):
        run_world(2, partial(_train, max_steps=steps, recover=steps > 1, **further), tmp_path)
    content = load_torch_file(tmp_path / "second" / "last.ckpt")
    assert content["stable_audio"]["step"] == 2
    assert any(bool(value.any()) for key, value in content["state_dict"].items() if key.endswith("lora_B"))


def test_files_of_rank_16_of_the_large_model_are_small() -> None:
    """An adapter of every layer, in 16 bits; and in 32 bits with two averages of Adam of 8 bits, or of 32."""
    model: Any = create_model_from_config("stable_audio/stable_audio_open_1_0", device="meta")
    stack = AdapterStack(model.backbone, model.conditioner)
    index = stack.add(AdapterSettings(rank=16, adapter_type="bora"))
    trained = sum(p.numel() for p in stack.parameters(index))
    closed_form = sum(
        16 * (rows + columns) + rows + columns
        for rows, columns in (
            (layer.weight.shape[0], math.prod(layer.weight.shape[1:])) for layer in stack.layers.values()
        )
    )
    assert trained == closed_form
    assert sum(p.numel() for p in model.backbone.parameters()) > 1.0e9
    assert 2 * trained < 35e6
    assert (4 + 2) * trained < 150e6
    assert 3 * 4 * trained < 200e6


def test_a_checkpoint_has_little_beside_adapter_and_optimizer(tmp_path: Path) -> None:
    base = stored(tmp_path, ".safetensors", tiny_config())
    config = tiny_config(lora_config={"rank": 16})
    tiny_run(tmp_path, config, pretrained_ckpt_path=str(base), max_steps=1, demos=False).start()
    file = tmp_path / "run" / "last.ckpt"
    trained = sum(v.numel() for v in load_torch_file(file)["state_dict"].values())
    tensors = len(load_torch_file(file)["state_dict"])
    # Positions and names: some kilobytes for each tensor and its two averages, and the config.
    assert file.stat().st_size < 12 * trained + 3000 * tensors + 60_000
    assert (tmp_path / "run" / "last.safetensors").stat().st_size < 2 * trained + 300 * tensors + 5000
