"""Several processes train as one does, whatever the strategy: loss, weights, average, optimizer state."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.audio.io import read_audio
from stable_audio.checkpoints import read_checkpoint
from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.training.processes import shared_rows
from tests.training import worlds
from tests.training.autoencoder import test_autoencoder
from tests.training.building import DATASET, tiny_config, tiny_run
from tests.training.processes.models import NAMES, config_of
from tests.training.worlds import ended_world, run_world

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")
STEPS, BATCH = 20, 4


def train(
    folder: Path,
    names: Sequence[str],
    strategy: str,
    options: dict[str, Any],
    configs: Callable[[str], dict[str, Any]] = config_of,
) -> None:
    """Train each model with the processes of this world."""
    logging.disable(logging.WARNING)
    for name in names:
        run = tiny_run(folder, configs(name), **{"name": f"{name}-{strategy}", **options})
        run.module.double()  # in float32, Adam would magnify what is rounded of gradients that are 0
        run.start()


def compare(folder: Path, name: str, strategy: str) -> None:
    """A run of several processes equals that of one, to the rounding of sums."""
    one, several = folder / f"{name}-one", folder / f"{name}-{strategy}"
    for a, b in zip(_rows(one), _rows(several), strict=True):
        for key in ("train/loss", "train/grad_norm", "train/disc_grad_norm", "val/avg_loss"):
            assert (key in a) == (key in b)
            if a.get(key):
                assert float(b[key]) == pytest.approx(float(a[key]), rel=1e-6), (name, a["step"], key)
    compare_files(one / "last.ckpt", several / "last.ckpt", name)


def compare_files(one: Path, several: Path, name: str) -> None:
    """Weights, average and optimizers of two checkpoints are the same, to the rounding of sums."""
    first, second = load_torch_file(one), load_torch_file(several)
    _assert_close(first["state_dict"], second["state_dict"], name)
    averages = [(content["stable_audio"]["ema"] or {}).get("average", {}) for content in (first, second)]
    _assert_close(*averages, name)
    assert len(first["optimizer_states"]) == len(second["optimizer_states"])
    for a, b in zip(first["optimizer_states"], second["optimizer_states"]):
        assert a["state"].keys() == b["state"].keys() != set()
        for number, state in a["state"].items():
            _assert_close(state, b["state"][number], f"{name}, optimizer {number}")


def _assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], name: str) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(
            found[key], value, atol=1e-9, rtol=1e-7, msg=lambda m, k=key: f"{name} {k}: {m}"
        )


def _rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def options_of(processes: int, **more: Any) -> dict[str, Any]:
    return {
        "devices": "auto",
        "batch_size": BATCH // processes,
        "max_steps": STEPS,
        "gradient_clip_val": 0.5,
        "checkpoint_every": 0,
        "demos": False,
        **more,
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process."""
    folder = tmp_path_factory.mktemp("worlds")
    run_world(1, train, folder, NAMES, "one", options_of(1))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "strategy", "more", "names"),
    [
        (4, "ddp", {}, NAMES),
        (4, "fsdp", {}, NAMES),
        (4, "hsdp", {"shard_size": 2}, NAMES),
        (2, "fsdp", {}, NAMES),
        (2, "ddp", {}, NAMES),
    ],
)
def test_every_backbone_trains_like_one_process(
    alone: Path, processes: int, strategy: str, more: dict[str, Any], names: list[str]
) -> None:
    label = f"{strategy}{processes}"
    run_world(processes, train, alone, names, label, options_of(processes, strategy=strategy, **more))
    for name in names:
        compare(alone, name, label)


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_the_batches_of_a_step_add_up_as_in_one_process(tmp_path: Path, strategy: str) -> None:
    accumulated = {"accum_batches": 3, "max_steps": 4}
    run_world(1, train, tmp_path, ["dit"], "one", options_of(1, **accumulated))
    run_world(2, train, tmp_path, ["dit"], strategy, options_of(2, strategy=strategy, **accumulated))
    compare(tmp_path, "dit", strategy)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_compiled_blocks_train_like_one_process_without_the_compiler(alone: Path, strategy: str) -> None:
    label = f"{strategy}2-compiled"
    run_world(2, train_compiled, alone, ["dit"], label, options_of(2, strategy=strategy, compile=True))
    compare(alone, "dit", label)


def train_compiled(*args: Any) -> None:
    """`train` with a compiler that makes no kernels."""
    compile_module = torch.nn.Module.compile
    torch.nn.Module.compile = lambda self: compile_module(self, backend="aot_eager")  # type: ignore
    train(*args)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


OPTIMIZERS = {
    "Muon": {"lr": 1e-3},
    "AdamW8bit": {"lr": 1e-3, "block_size": 64},
    "SGD": {"lr": 1e-2, "momentum": 0.9},
}


def train_by(folder: Path, name: str, optimizer: str, options: dict[str, Any]) -> None:
    """Train a model with matrices of several blocks of numbers."""
    logging.disable(logging.WARNING)
    chosen = {"type": optimizer, "config": OPTIMIZERS[optimizer]}
    config = tiny_config(optimizer_configs={"diffusion": {"optimizer": chosen}})
    config["model"]["diffusion"]["config"]["embed_dim"] = 64
    tiny_run(folder, config, **{**options, "name": name}).start()


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("checkpoints", ["file", "shards"])
def test_split_optimizers_go_on_to_the_same_bits(tmp_path: Path, optimizer: str, checkpoints: str) -> None:
    if "bit" in optimizer:
        pytest.importorskip("torchao.optim")
    options = {**options_of(2, strategy="fsdp"), "max_steps": 4, "checkpoint_format": checkpoints}
    run_world(2, train_by, tmp_path, "whole", optimizer, options)
    run_world(2, train_by, tmp_path, "parts", optimizer, {**options, "max_steps": 2})
    run_world(2, train_by, tmp_path, "parts", optimizer, {**options, "recover": True})
    whole, parts = (read_checkpoint(tmp_path / n / "last.safetensors").tensors for n in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert [key for key, value in whole.items() if not torch.equal(value, parts[key])] == []


DEMOS = {
    "demo_every": 3,
    "demo_steps": 3,
    "demo_cond": [{"seconds_start": 0, "seconds_total": n} for n in (1, 2, 3)],
    "demo_cfg_scales": [1, 2],
}
VALIDATION = {**DATASET, "split": "val", "num_clips": 3}


def _validated(folder: Path, strategy: str, batch: int) -> None:
    """Train with a validation for which processes have 2 and 1 clips."""
    options = {"batch_size": batch, "max_steps": 5, "strategy": strategy, "devices": "auto"}
    config = config_of("mlp")
    config["training"].update(ema={"update_after_step": 0}, demo=DEMOS)
    run = tiny_run(folder, config, name=strategy, val_dataset=VALIDATION, val_every=3, **options)
    run.module.double()
    run.module.ranking = {}  # to write the best weights would let go of what was gathered
    run.start()


def test_processes_with_parts_validate_as_often_as_each_other(tmp_path: Path) -> None:
    """The last one repeats clips; and what was gathered of averaged weights trains no further."""
    _validated(tmp_path, "auto", 2)
    run_world(2, _validated, tmp_path, "fsdp", 1)
    one, two = _rows(tmp_path / "auto"), _rows(tmp_path / "fsdp")
    assert [bool(row["val/avg_loss"]) for row in one] == [False, False, True, False, False]
    for a, b in zip(one, two, strict=True):
        for key in ("train/loss", "train/grad_norm", "val/avg_loss", "val/loss_0.5"):
            assert bool(a[key]) == bool(b[key])
            if a[key]:
                assert float(b[key]) == pytest.approx(float(a[key]), rel=1e-6), (a["step"], key)
    first, second = (load_torch_file(tmp_path / name / "last.ckpt") for name in ("auto", "fsdp"))
    _assert_close(first["state_dict"], second["state_dict"], "validated")
    sounds = [sorted((tmp_path / n / "demos" / "step_00000003").glob("*.wav")) for n in ("auto", "fsdp")]
    assert [p.name for p in sounds[0]] == [p.name for p in sounds[1]]
    assert len(sounds[0]) == 6
    for alone, together in zip(*sounds):
        a, b = (read_audio(path)[0] for path in (alone, together))
        torch.testing.assert_close(b, a, atol=2e-4, rtol=0)  # 16 bits, and sampling in float32


L1 = {"time": {"weights": {"l1": 1.0}}}


def _failing_demo(folder: Path, strategy: str, where: str, failing: Sequence[int], **options: Any) -> None:
    """Train with demos of which that of step 3 fails on some processes."""
    config = test_autoencoder.tiny_config(L1) if where == "a coder" else config_of("dit")
    config["training"].update(demo={"demo_every": 3} if where == "a coder" else DEMOS)
    options = {"max_steps": 6, "dead_after": 20, "devices": "auto", "strategy": strategy, **options}
    run = tiny_run(folder, config, **options)
    fails = run.trainer.global_rank in failing

    def fail(*_: Any) -> Any:
        if fails and not run.module.model.training and run.trainer.global_step == 3:
            raise ValueError(f"it fails in {where}")

    model: Any = run.module.model
    if where == "a coder":
        model.decoder.register_forward_pre_hook(fail)
    elif where == "the network":
        list(model.backbone.children())[-1].register_forward_pre_hook(fail)
    else:
        decode = model.pretransform.decode
        model.pretransform.decode = lambda *args, **options: fail() or decode(*args, **options)
    shared_rows.FAILING_SECONDS = 1.0
    assert run.start() == 0


@pytest.mark.parametrize(
    ("strategy", "where", "failing"),
    [
        ("ddp", "the network", [1]),
        ("ddp", "the decoder", [1]),
        ("fsdp", "the decoder", [0]),
        ("fsdp", "the network", [0, 1]),
    ],
)
def test_all_leave_a_demo_that_fails_on_one_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, where: str, failing: list[int]
) -> None:
    monkeypatch.setattr(worlds, "SECONDS", 90.0)
    run_world(2, _failing_demo, tmp_path, strategy, where, failing)
    demos = tmp_path / "run" / "demos"
    assert not (demos / "step_00000003" / "index.html").exists()
    assert (demos / "step_00000006" / "index.html").is_file()


def _going_on(folder: Path, where: str) -> None:
    _failing_demo(folder, "fsdp", where, [1], checkpoint_every=2, recover=True)


@pytest.mark.parametrize("where", ["the network", pytest.param("a coder", marks=pytest.mark.slow)])
def test_a_demo_that_fails_between_parts_of_weights_ends_the_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(worlds, "SECONDS", 90.0)
    statuses, failures = ended_world(2, _going_on, tmp_path, where, left_alone=True)
    assert 0 not in statuses
    assert any(
        "a demo has failed on this process alone (ValueError: it fails in" in text for text in failures
    )
    run_world(2, _going_on, tmp_path, where)
    assert "the demo of step 3 is left out, since it has ended" in (tmp_path / "run" / "log.txt").read_text()
    demos = tmp_path / "run" / "demos"
    assert not (demos / "step_00000003" / "index.html").exists()
    assert (demos / "step_00000006" / "index.html").is_file()
