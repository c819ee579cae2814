"""The optimizer of a fine-tune, and the size of the checkpoints that follows from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.optim import torchao_classes
from stable_audio.training.base import TrainingModule
from stable_audio.training.build import build_training
from stable_audio.training.finetune.section import training_section
from stable_audio.training.finetune.sizing import optimizer_for, size_for
from stable_audio.training.memory_plan.static import optimizer_memory
from stable_audio.training.options import RunOptions
from stable_audio.training.saving.checkpoint_io import tensor_bytes
from stable_audio.training.transforms import transforms_for
from stable_audio.transforms.recorded import apply_transforms
from tests.training.building import stored, tiny_config, tiny_run

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
ABOVE_ITS_TENSORS = 64_000, 1_000
"""Most bytes that a checkpoint has besides: in all (configs, positions), for each tensor (name, place)."""


def config_with(
    config: dict[str, Any], kind: str, rank: int, optimizer: str, *, pre_encoded: bool = True
) -> Any:
    section = training_section(
        config,
        size_for(4, pieces=4, base_rate=None, adapter=True, steps=2),
        optimizer=optimizer,
        micro_batch=1,
        adapter={"adapter_type": kind, "rank": rank, "alpha": rank},
        gradient_checkpointing=False,
        base_precision=None,
        text_cache=None,
        demo=None,
    )
    return load_config({**config, "training": {**section, "pre_encoded": pre_encoded}})


def on_shapes(config: Any) -> TrainingModule:
    model = create_model_from_config(config, device="meta")
    apply_transforms(model, transforms_for(config, RunOptions()))
    return build_training(config, model)


def counted(module: TrainingModule) -> int:
    """Bytes of the weights that a checkpoint holds, in float32, and of their optimizer."""
    weights = sum(4 * p.numel() for p in module.parameters() if p.requires_grad)
    return weights + optimizer_memory(module).state


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a machine with a GPU has, to be changed."""
    there: dict[str, Any] = {"capability": (8, 6), "packages": {"triton"}, "programs": {"gcc"}, "error": None}

    def require(_: Any) -> None:
        if there["error"] is not None:
            raise there["error"]

    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: there["capability"])
    monkeypatch.setattr(
        torchao_classes, "find_spec", lambda name: name if name in there["packages"] else None
    )
    monkeypatch.setattr(
        torchao_classes.shutil, "which", lambda name: name if name in there["programs"] else None
    )
    monkeypatch.setattr(torchao_classes, "require_torchao", require)
    return there


def test_adapters_have_averages_of_8_bits_where_these_cost_no_time(gpu: dict[str, Any]) -> None:
    assert optimizer_for("lora", GPU) == optimizer_for("dora-rows", GPU) == "AdamW8bit"
    assert optimizer_for("lora-xs", GPU) == "AdamW"
    assert optimizer_for(None, GPU) == "AdamW"
    assert optimizer_for("lora", CPU) == "AdamW"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("capability", (6, 1)),
        ("packages", set()),
        ("programs", set()),
        ("error", ImportError("no torchao")),
    ],
)
def test_what_such_averages_need(gpu: dict[str, Any], name: str, value: Any) -> None:
    gpu[name] = value
    assert optimizer_for("lora", GPU) == "AdamW"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "optimizer", "megabytes"),
    [("lora", "AdamW", 184.2), ("lora", "AdamW8bit", 93.4), ("dora-rows", "AdamW8bit", 98.3)],
)
def test_checkpoints_of_adapters_of_stable_audio_open(kind: str, optimizer: str, megabytes: float) -> None:
    """Rank 16 on 1.06 billion weights: below 150 MB in 8 bits."""
    if optimizer == "AdamW8bit":
        pytest.importorskip("torchao.optim")
    config = load_config("stable_audio/stable_audio_open_1_0").as_dict()
    module = on_shapes(config_with(config, kind, 16, optimizer))
    assert counted(module) / 1e6 == pytest.approx(megabytes, abs=0.05)


@pytest.mark.parametrize("optimizer", ["AdamW", "AdamW8bit"])
def test_a_checkpoint_has_the_size_that_is_counted(tmp_path: Path, optimizer: str) -> None:
    if optimizer == "AdamW8bit":
        pytest.importorskip("torchao.optim")
    base = stored(tmp_path, ".safetensors", tiny_config())
    config = config_with(tiny_config(), "dora-rows", 256, optimizer, pre_encoded=False)
    count = counted(on_shapes(config))
    run = tiny_run(tmp_path, config.as_dict(), name="run", max_steps=1, pretrained_ckpt_path=str(base))
    assert run.start() == 0
    checkpoint = load_torch_file(tmp_path / "run" / "last.ckpt")
    weights, states = checkpoint["state_dict"], checkpoint["optimizer_states"]
    tensors = tensor_bytes(weights) + tensor_bytes(states)
    assert tensors == pytest.approx(count, abs=4 * len(weights))  # a number of torchao's for each weight
    least, each = ABOVE_ITS_TENSORS
    size = (tmp_path / "run" / "last.ckpt").stat().st_size
    assert tensors < size < tensors + least + each * 7 * len(weights)  # each with two averages of three parts
