"""Teachers: any model, frozen, beside the one that is trained, and no part of what is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.training.diffusion.module import DiffusionTraining
from stable_audio.training.errors import TrainingError
from stable_audio.training.teacher import Teacher, load_teacher
from tests import tiny
from tests.training.building import tiny_config, tiny_run

ADAM = {"type": "Adam", "config": {"lr": 1e-3}}


class Linear(nn.Linear):
    """Notes in which types it computed."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = (x.dtype, self.weight.dtype, super().forward(x).dtype)
        return super().forward(x)


def taught(**options: Any) -> tuple[Any, Teacher]:
    config = load_config(tiny_config())
    module = DiffusionTraining(create_model_from_config(config), optimizer=ADAM, batch_size=2)
    module.teacher = Teacher(create_model_from_config(config), **options)
    return module, module.teacher


def test_a_teacher_is_no_part_of_what_is_trained_averaged_or_stored() -> None:
    module, teacher = taught()
    plain = DiffusionTraining(create_model_from_config(load_config(tiny_config())), optimizer=ADAM)
    assert module.state_dict().keys() == plain.state_dict().keys()
    assert module.inference_tensors().keys() == plain.inference_tensors().keys()
    assert module.ema.average.keys() == plain.ema.average.keys()
    (optimizer,) = [module.configure_optimizers()["optimizer"]]
    weights = {id(p) for p in teacher.model.parameters()}
    assert weights
    assert not weights & {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert not any(p.requires_grad for p in teacher.model.parameters())
    module.train()
    assert not any(m.training for m in teacher.model.modules())


def test_it_is_moved_with_the_training_and_keeps_its_type() -> None:
    module, teacher = taught()
    module.double()
    assert {p.dtype for p in teacher.model.parameters()} == {torch.float32}
    module.to("meta")
    assert {p.device.type for p in teacher.model.parameters()} == {"meta"}


def test_its_precision_is_its_own() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    own, half, full = (Teacher(Linear(4, 4), precision=p) for p in (None, "bfloat16", "float32"))  # type: ignore[arg-type]
    for teacher in (own, half, full):
        with torch.autocast("cpu", torch.bfloat16), teacher.on(x.device) as model:
            model(teacher.cast(x))
    bf16, f32 = torch.bfloat16, torch.float32
    assert [t.model.seen for t in (own, half, full)] == [
        (f32, f32, bf16),
        (bf16, bf16, bf16),
        (f32, f32, f32),
    ]
    with half.on(x.device) as model:  # and outside of mixed training
        model(half.cast(x)).sum().backward()
    assert half.model.seen == (bf16, bf16, bf16)
    assert x.grad is not None
    assert half.model.weight.grad is None


@pytest.mark.parametrize("kind", ["diffusion_cond", "autoencoder"])
@pytest.mark.parametrize("inside", [True, False])
def test_any_model_type_teaches_with_its_weights(kind: str, inside: bool, tmp_path: Path) -> None:
    config = tiny_config()
    if kind == "autoencoder":
        shape = tiny.PRETRANSFORMS["autoencoder"]
        losses = {"time": {"weights": {"l1": 1.0}}}
        config = {**config, "model_type": kind, "audio_channels": 2, "model": shape}
        config["training"] = {"learning_rate": 1e-3, "loss_configs": losses}
    run = tiny_run(tmp_path, config, max_steps=1)
    assert run.start() == 0
    teacher = load_teacher(tmp_path / "run" / "last.safetensors", None if inside else config)
    expected = run.module.inference_tensors()
    stored = teacher.model.state_dict()
    assert stored.keys() == expected.keys()
    assert all(torch.equal(v, expected[k]) for k, v in stored.items())


def test_teachers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    assert tiny_run(tmp_path, max_steps=1).start() == 0
    weights = str(tmp_path / "run" / "last.safetensors")
    with pytest.raises(
        TrainingError, match=r"teacher_model_ckpt: found, but nothing in DiffusionTraining learns"
    ):
        tiny_run(tmp_path / "a", tiny_config(teacher_model_ckpt=weights))
    shape = tiny.PRETRANSFORMS["autoencoder"]
    config = {**tiny_config(), "model_type": "autoencoder", "audio_channels": 2, "model": shape}
    config["training"] = {"learning_rate": 1e-3, "teacher_model_ckpt": weights}
    with pytest.raises(TrainingError, match=r"teacher_model is a DiffusionModel; autoencoders learn from"):
        tiny_run(tmp_path / "b", config)
    torch.save({"state_dict": {"model.weight": torch.zeros(1)}}, tmp_path / "empty.ckpt")
    with pytest.raises(TrainingError, match=r"ckpt: .*has no config inside; give .*as teacher_model"):
        load_teacher(tmp_path / "empty.ckpt")
