"""A run that was stopped and continued ends with the bits of the run that was not."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.checkpoints import CheckpointError
from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.training.window import SigmaBuckets, Window, state_of_rank
from tests.training.building import tiny_config, tiny_run, write_files

ROOT = Path(__file__).parents[3]
DROPOUT = {"cfg_dropout_prob": 0.5, "timestep_sampler": "logit_normal", "p_one_shot": 0.1}
SCHEDULED = {
    "optimizer_configs": {
        "diffusion": {
            "optimizer": {"type": "AdamW", "config": {"lr": 1e-3}},
            "scheduler": {"type": "InverseLR", "config": {"inv_gamma": 10, "power": 0.5, "warmup": 0.5}},
        }
    }
}


def _tensors(value: Any, prefix: str = "") -> dict[str, Tensor]:
    """Every tensor of a nested checkpoint, by path."""
    if isinstance(value, Tensor):
        return {prefix: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {k: v for key, item in items for k, v in _tensors(item, f"{prefix}/{key}").items()}


def assert_same_checkpoint(a: Path, b: Path) -> None:
    first, second = load_torch_file(a), load_torch_file(b)
    left, right = _tensors(first), _tensors(second)
    assert left.keys() == right.keys()
    assert [k for k, v in left.items() if not torch.equal(v, right[k])] == []
    assert first["stable_audio"]["data"] == second["stable_audio"]["data"]
    assert first["stable_audio"]["position"] == second["stable_audio"]["position"]


def _curve(folder: Path) -> list[tuple[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return [(row["step"], row["train/loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("training", "options"),
    [
        (DROPOUT, {}),
        (SCHEDULED, {"accum_batches": 2, "gradient_clip_val": 0.5}),
        ({}, {"num_workers": 2}),
    ],
    ids=["dropout", "accumulation and schedule", "workers"],
)
def test_continued_run_is_bit_identical(
    tmp_path: Path, training: dict[str, Any], options: dict[str, Any]
) -> None:
    config = tiny_config(**training)
    tiny_run(tmp_path, config, name="whole", max_steps=6, **options).start()
    tiny_run(tmp_path, config, name="parts", max_steps=3, **options).start()
    resumed = tiny_run(tmp_path, config, name="parts", max_steps=6, recover=True, **options)
    assert resumed.start() == 0
    assert_same_checkpoint(tmp_path / "whole" / "last.ckpt", tmp_path / "parts" / "last.ckpt")
    assert _curve(tmp_path / "whole") == _curve(tmp_path / "parts")


@pytest.mark.parametrize(("before", "after", "stop"), [(2, 4, 3), (4, 3, 1), (1, 3, 2), (3, 1, 2)])
def test_the_first_step_after_another_accumulation_is_whole(
    tmp_path: Path, before: int, after: int, stop: int
) -> None:
    tiny_run(tmp_path, max_steps=stop, accum_batches=before).start()
    run = tiny_run(tmp_path, max_steps=stop + 2, accum_batches=after, recover=True)
    batches: list[int] = []
    step = run.module.training_step

    def counted(*args: Any, **options: Any) -> Any:
        batches.append(run.trainer.global_step)
        return step(*args, **options)

    run.module.training_step = counted  # type: ignore[method-assign]
    assert run.start() == 0
    assert batches == [stop] * after + [stop + 1] * after


def test_a_log_line_that_a_stop_interrupts_is_that_of_the_whole_run(tmp_path: Path) -> None:
    config = tiny_config(log_loss_info=True, **DROPOUT)
    options = {"log_every": 4, "gradient_clip_val": 0.5}
    tiny_run(tmp_path, config, name="whole", max_steps=8, **options).start()
    for last in (2, 3, 6, 8):
        tiny_run(tmp_path, config, name="parts", max_steps=last, recover=last > 2, **options).start()
    rows = []
    for name in ("whole", "parts"):
        with open(tmp_path / name / "metrics.csv", newline="") as file:
            rows.append([{k: v for k, v in r.items() if "speed" not in k} for r in csv.DictReader(file)])
    assert [r["step"] for r in rows[0]] == ["4", "8"]
    assert any(k.startswith("model/loss_all") for k in rows[0][0])
    assert rows[1] == rows[0]


def test_scalars_of_another_number_of_processes_keep_their_means() -> None:
    windows, buckets = [Window(), Window()], [SigmaBuckets(), SigmaBuckets()]
    for k, (window, bucket) in enumerate(zip(windows, buckets)):
        for value in (1.0, 4.0):
            window.add({"loss": value + 10 * k})
        bucket.add(torch.tensor([0.05, 0.95]), torch.tensor([1.0, 2.0]) + k)
    states = [{"window": w.state_dict(), "buckets": b.state_dict()} for w, b in zip(windows, buckets)]
    assert state_of_rank(states, 1, 2) == states[1]
    parts = [state_of_rank(states, rank, 4) for rank in range(4)]
    totals = torch.zeros(2, SigmaBuckets.COUNT)
    for part in parts:
        window, bucket = Window(), SigmaBuckets()
        window.load_state_dict(part["window"])
        bucket.load_state_dict(part["buckets"])
        assert window.means()["loss"] == 7.5
        totals += bucket.pop()  # type: ignore[arg-type]
    assert SigmaBuckets.means(totals) == {"model/loss_all_0.0": 1.5, "model/loss_all_0.9": 2.5}


def test_continuing_across_the_end_of_an_epoch(tmp_path: Path) -> None:
    # Ten clips in batches of 4: an epoch is two batches, so both stops are in mid-epoch of another one.
    folder = tmp_path / "clips"
    _write_clips(folder, 10)
    dataset = {"dataset_type": "audio_dir", "datasets": [{"id": "clips", "path": str(folder)}]}
    options = {"dataset": dataset, "batch_size": 4}
    tiny_run(tmp_path, name="whole", max_steps=7, **options).start()
    tiny_run(tmp_path, name="parts", max_steps=3, **options).start()
    tiny_run(tmp_path, name="parts", max_steps=7, recover=True, **options).start()
    assert_same_checkpoint(tmp_path / "whole" / "last.ckpt", tmp_path / "parts" / "last.ckpt")


def _write_clips(folder: Path, count: int) -> None:
    from stable_audio.audio.io import save_audio

    folder.mkdir()
    for i in range(count):
        noise = torch.randn(1, 3000, generator=torch.Generator().manual_seed(i)) * 0.1
        save_audio(folder / f"{i}.wav", noise, 4000)


def test_a_demo_does_not_change_the_run(tmp_path: Path) -> None:
    from tests.training.building import demo_section

    tiny_run(tmp_path, tiny_config(**DROPOUT), name="plain").start()
    tiny_run(tmp_path, tiny_config(demo=demo_section(demo_every=1), **DROPOUT), name="demos").start()
    assert _curve(tmp_path / "plain") == _curve(tmp_path / "demos")


def test_only_training_checkpoints_are_continued(tmp_path: Path) -> None:
    tiny_run(tmp_path, max_steps=1).start()
    with pytest.raises(CheckpointError, match="--pretrained-ckpt-path"):
        tiny_run(tmp_path, ckpt_path=str(tmp_path / "run" / "last.safetensors"))


def _start(folder: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "train.py"), *write_files(folder, tiny_config(**DROPOUT))]
    fixed = ["--save-dir", str(folder), "--batch-size", "2", "--accelerator", "cpu", "--devices", "1"]
    fixed += ["--precision", "32-true"]  # runs that are compared; each would measure for itself
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(
        [*command, *fixed, *flags], env=environment, stderr=subprocess.PIPE, text=True, cwd=folder
    )


def _wait_for_steps(process: subprocess.Popen[str], folder: Path, steps: int) -> None:
    """Until the run has logged `steps` steps and written a checkpoint, which is done beside the training."""
    deadline, metrics = time.monotonic() + 120, folder / "metrics.csv"
    while time.monotonic() < deadline and process.poll() is None:
        logged = metrics.is_file() and len(metrics.read_text().splitlines()) > steps
        if logged and (folder / "last.ckpt").exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"the run did not reach step {steps}: {process.communicate()[1][-2000:]}")


def _refuse_parting(whole: Path, killed: Path, at_kill: int) -> None:
    """Compare the checkpoints of two runs in order, so that a failure says when they part, and by how much:
    before the kill, arithmetic differs between two processes; after it, the checkpoint or its loading is at
    fault."""
    for path in sorted((whole / "checkpoints").glob("step=*.ckpt")):
        other = killed / "checkpoints" / path.name
        if not other.is_file():
            continue
        left, right = _tensors(load_torch_file(path)), _tensors(load_torch_file(other))
        apart = {k: float((v.double() - right[k].double()).abs().max()) for k, v in left.items() if v.numel()}
        differing = {key: value for key, value in apart.items() if value > 0}
        side = "before" if int(path.stem.split("=")[1]) <= at_kill else "after"
        assert not differing, f"the runs part {side} the kill, at {path.name}: {differing}"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda n: n.name)
def test_killed_and_continued(tmp_path: Path, number: signal.Signals) -> None:
    flags = ["--name", "killed", "--checkpoint-every", "3", "--num-workers", "2"]
    process = _start(tmp_path, *flags)
    _wait_for_steps(process, tmp_path / "killed", 5)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    expected = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}
    assert process.returncode == expected[number], errors
    step = load_torch_file(tmp_path / "killed" / "last.ckpt")["stable_audio"]["step"]
    assert step >= 5 or number == signal.SIGKILL
    last = step + 3
    options = {"max_steps": last, "checkpoint_every": 3}
    config = tiny_config(**DROPOUT)
    tiny_run(tmp_path, config, name="killed", recover=True, num_workers=2, **options).start()
    tiny_run(tmp_path, config, name="whole", **options).start()
    _refuse_parting(tmp_path / "whole", tmp_path / "killed", step)
    assert_same_checkpoint(tmp_path / "whole" / "last.ckpt", tmp_path / "killed" / "last.ckpt")
    assert _curve(tmp_path / "whole") == _curve(tmp_path / "killed")
