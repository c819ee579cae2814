"""Runs with `--precision fp8-mixed`: what they compute in 8 bits, resume, and refuse."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.checkpoints import load_model, read_checkpoint
from stable_audio.checkpoints.format import TRAINING_ENTRY
from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.training.devices import float8
from stable_audio.training.devices.float8 import FLOAT8, check_float8, use_float8
from stable_audio.training.errors import TrainingError
from stable_audio.training.memory_plan import plan_training
from stable_audio.training.options import RunOptions
from tests.training.autoencoder.test_autoencoder import tiny_config as tiny_autoencoder
from tests.training.building import DATASET, demo_section, tiny_config, tiny_run
from tests.training.starting.test_adapter_settings import model_of
from tests.training.worlds import run_world

VALIDATION = {**DATASET, "split": "val", "num_clips": 3}
EMULATED: dict[str, Any] = {"precision": "fp8-mixed-emulated", "demos": False}


def weights_of(run: Any) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in run.module.model.state_dict().items()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def test_runs_learn_and_their_files_are_as_ever(tmp_path: Path) -> None:
    names = ("bf16-mixed", "fp8-mixed-emulated", "fp8-rowwise-mixed-emulated")
    losses: dict[str, list[float]] = {}
    for name in names:
        run = tiny_run(tmp_path / name, max_steps=16, batch_size=8, precision=name, demos=False)
        assert run.start() == 0
        assert run.trainer.precision == name
        losses[name] = _column(run, "train/loss")
    mixed, *low = losses.values()
    for values in low:
        assert sum(values[-8:]) < sum(values[:8])
        assert values != mixed
        assert values == pytest.approx(mixed, rel=0.05)
    assert low[0] != low[1]
    expected = _layout(tmp_path / "bf16-mixed" / "run" / "last.safetensors")
    for name in names[1:]:
        folder = tmp_path / name / "run"
        assert _layout(folder / "last.safetensors") == expected
        assert not [m for m in load_model(folder)[0].modules() if "Float8" in type(m).__name__]
        entry = json.loads((folder / "run.json").read_text())["starts"][0]
        how = {"scaling": FLOAT8[name].scaling, "emulated": True, "layers": 14}
        assert entry["transforms"] == [{"type": "float8", "config": how}]
        assert entry["options"]["precision"] == name
        assert "torchao" in entry["versions"]


def _column(run: Any, name: str) -> list[float]:
    with (run.options.folder / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def _layout(path: Path) -> dict[str, Any]:
    return {key: (value.dtype, value.shape) for key, value in read_checkpoint(path).tensors.items()}


def test_a_run_goes_on_with_the_same_bits_in_8_bits(tmp_path: Path) -> None:
    config = tiny_config(gradient_checkpointing=True, cfg_dropout_prob=0.2)
    whole = tiny_run(tmp_path / "whole", config, max_steps=6, **EMULATED)
    whole.start()
    tiny_run(tmp_path / "parts", config, max_steps=3, **EMULATED).start()
    entry = load_torch_file(tmp_path / "parts" / "run" / "last.ckpt")[TRAINING_ENTRY]
    assert tuple(entry["precision"]) == ("cpu", "fp8-mixed-emulated")
    again = tiny_run(tmp_path / "parts", config, max_steps=6, recover=True, demos=False)  # --precision auto
    assert again.options.precision == "fp8-mixed-emulated"
    again.start()
    assert_equal(weights_of(again), weights_of(whole))
    assert_equal(again.module.inference_tensors(), whole.module.inference_tensors())


def test_a_run_may_go_on_in_another_precision(tmp_path: Path) -> None:
    tiny_run(tmp_path, max_steps=2, **EMULATED).start()
    again = tiny_run(tmp_path, max_steps=4, recover=True, precision="bf16-mixed", demos=False)
    assert again.start() == 0
    assert again.trainer.precision == "bf16-mixed"


def test_validation_and_demos_compute_as_in_bfloat16(tmp_path: Path) -> None:
    config = tiny_config(demo=demo_section())
    # Steps that are too small to matter, so that both have the same weights.
    still = {"diffusion": {"optimizer": {"type": "SGD", "config": {"lr": 1e-30}}}}
    config["training"] = {"demo": demo_section(), "optimizer_configs": still}
    losses, demos = [], []
    for name in ("fp8-mixed-emulated", "bf16-mixed"):
        options = {"max_steps": 2, "val_every": 2, "precision": name, "val_dataset": VALIDATION}
        run = tiny_run(tmp_path / name, config, **options)
        assert run.start() == 0
        losses.append(_column(run, "val/avg_loss"))
        demos.append([p.read_bytes() for p in sorted((run.options.folder / "demos").rglob("*.wav"))])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 1
    assert demos[0] == demos[1]
    assert demos[0]


def test_muon_accumulation_clipping_and_released_gradients(tmp_path: Path) -> None:
    muon = {"diffusion": {"optimizer": {"type": "Muon", "config": {"lr": 1e-3}}}}
    config = tiny_config()
    config["training"] = {"optimizer_configs": muon}
    run = tiny_run(tmp_path / "muon", config, max_steps=2, accum_batches=2, gradient_clip_val=1.0, **EMULATED)
    before = weights_of(run)
    assert run.start() == 0
    after = weights_of(run)
    key = "backbone.transformer.layers.0.self_attn.to_qkv.weight"
    assert not torch.equal(after[key], before[key])
    released = tiny_run(tmp_path / "a", tiny_config(gradient_release=True), max_steps=3, **EMULATED)
    plain = tiny_run(tmp_path / "b", tiny_config(), max_steps=3, **EMULATED)
    assert released.start() == plain.start() == 0
    assert_equal(weights_of(released), weights_of(plain))


@pytest.mark.parametrize("precision", ["fp8-mixed", "fp8-rowwise-mixed"])
def test_a_cpu_is_refused_without_emulation(tmp_path: Path, precision: str) -> None:
    with pytest.raises(TrainingError, match=f"--precision {precision} multiplies .* no such GPU; use .*"):
        tiny_run(tmp_path, precision=precision)


def _on(monkeypatch: pytest.MonkeyPatch, *capabilities: tuple[int, int]) -> None:
    monkeypatch.setattr(float8, "on_gpu", lambda _: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")


def test_old_cards_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    options = RunOptions(precision="fp8-mixed")
    _on(monkeypatch, (8, 9), (9, 0), (12, 0))
    check_float8(options)
    _on(monkeypatch, (9, 0), (8, 6))
    with pytest.raises(
        TrainingError, match=r"capability 8\.9 on do, and card 1 has 8\.6; use --precision bf"
    ):
        check_float8(options)
    check_float8(RunOptions(precision="fp8-mixed-emulated"))
    monkeypatch.setattr(torch.version, "hip", "6.0")
    _on(monkeypatch, (9, 0))
    with pytest.raises(TrainingError, match=r"capability 9\.4"):
        check_float8(options)


def test_a_run_that_goes_on_elsewhere_says_what_is_absent(tmp_path: Path, monkeypatch: Any) -> None:
    """The precision is the checkpoint's, and only checked once that is read."""
    from stable_audio.training.starting import precision

    def refused(options: RunOptions) -> None:
        raise TrainingError(options.precision)

    tiny_run(tmp_path, max_steps=1, **EMULATED).start()
    monkeypatch.setattr(precision, "check_float8", refused)
    with pytest.raises(TrainingError, match="fp8-mixed-emulated"):
        tiny_run(tmp_path, max_steps=2, recover=True)


def test_strategies_with_a_precision_of_their_own_are_refused() -> None:
    with pytest.raises(TrainingError, match="fp8-mixed-emulated works with --strategy auto, ddp, fsdp, hsdp"):
        check_float8(RunOptions(precision="fp8-mixed-emulated", strategy="deepspeed"))


def test_without_torchao_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("torchao", "torchao.float8"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'pip install "stable-audio\[quantize\]"'):
        check_float8(RunOptions(precision="fp8-mixed"))


def test_a_torchao_for_another_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchao")
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    versions = rf"torchao [0-9.]+.* does not offer with torch {re.escape(torch.__version__)}"
    with pytest.raises(ImportError, match=rf"needs torchao.float8, which {versions}.*made for this torch"):
        check_float8(RunOptions(precision="fp8-mixed"))


ADAPTED = tiny_config(lora_config={"rank": 2})
NARROW = tiny_config()
NARROW["model"]["diffusion"]["config"]["embed_dim"] = 24
CONVOLUTIONS = {**model_of("DAU1d"), "training": {"learning_rate": 1e-3}}


@pytest.mark.parametrize("config", [ADAPTED, NARROW, CONVOLUTIONS, tiny_autoencoder()])
def test_models_without_such_layers_are_refused(config: dict[str, Any]) -> None:
    loaded = load_config(config)
    model = create_model_from_config(loaded)
    if config is ADAPTED:
        model.requires_grad_(False)
    with pytest.raises(TrainingError, match=r"fp8-mixed-emulated is for trained linear layers .*; use "):
        use_float8(model, "fp8-mixed-emulated", compiled=False)
    with pytest.raises(TrainingError, match="fp8-mixed is for trained linear layers"):
        plan_training(loaded, RunOptions(precision="fp8-mixed"), search=False)


def test_other_precisions_change_nothing() -> None:
    model = create_model_from_config(load_config(tiny_config()))
    kinds = [type(m) for m in model.modules()]
    assert use_float8(model, "bf16-mixed", compiled=True) == []
    assert [type(m) for m in model.modules()] == kinds
    check_float8(RunOptions(precision="bf16-mixed", strategy="deepspeed"))


def test_memory_is_planned_as_for_bfloat16_and_says_so() -> None:
    config = load_config(tiny_config())
    plans = [
        plan_training(config, RunOptions(precision=name), search=False)
        for name in ("fp8-mixed", "bf16-mixed")
    ]
    assert plans[0].parts == plans[1].parts
    assert plans[0].operations == plans[1].operations
    assert "counted as in bfloat16" in plans[0].assumptions[-1]
    assert "fp8-mixed" in plans[0].choice.words()


def _in_8_bits(folder: str, strategy: str, options: dict[str, Any]) -> None:
    run = tiny_run(Path(folder), strategy=strategy, devices="2", name=strategy, **options)
    assert run.start() == 0
    assert run.trainer.precision == "fp8-mixed-emulated"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_processes_train_together_in_8_bits(tmp_path: Path, strategy: str) -> None:
    run_world(2, _in_8_bits, str(tmp_path), strategy, {**EMULATED, "max_steps": 2})
    # In a world of its own: the second process ends before the first has written the checkpoint.
    run_world(2, _in_8_bits, str(tmp_path), strategy, {"max_steps": 3, "recover": True})  # --precision auto
    model, _ = load_model(tmp_path / strategy)
    assert all(p.isfinite().all() for p in model.parameters())
