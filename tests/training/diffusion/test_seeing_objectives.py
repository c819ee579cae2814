"""Objectives that call the network a second time, draw a second time, or ask a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.config import load_config
from stable_audio.data.base import Batch
from stable_audio.diffusion.objectives import Compared, RectifiedFlowObjective, TrainingPoint
from stable_audio.factory import create_model_from_config
from stable_audio.model import DiffusionModel
from stable_audio.training.diffusion.module import DiffusionTraining
from stable_audio.training.errors import TrainingError
from stable_audio.training.teacher import Teacher
from tests.training.building import tiny_config, tiny_run

ADAM = {"type": "Adam", "config": {"lr": 1e-3}}


class Twice(RectifiedFlowObjective):
    """Compares with what the network says at an earlier time, which is drawn."""

    shares: list[Tensor]

    def compare(self, point: TrainingPoint) -> Compared:
        share = point.uniform()
        self.shares = [*getattr(self, "shares", []), share]
        earlier = point.t * share
        x_t, x_s = (self.noisy(point.x0, point.noise, time) for time in (point.t, earlier))
        with torch.no_grad():
            target = point.network(x_s, earlier)
        return Compared(x_t, point.network(x_t, point.t), target)


class Taught(RectifiedFlowObjective):
    """Compares with what a teacher says."""

    needs_teacher = True

    def compare(self, point: TrainingPoint) -> Compared:
        assert point.teacher is not None
        x_t = self.noisy(point.x0, point.noise, point.t)
        return Compared(x_t, point.network(x_t, point.t), point.teacher(x_t, point.t))


def model(seed: int = 0, **changes: Any) -> DiffusionModel:
    torch.manual_seed(seed)
    built: DiffusionModel = create_model_from_config(load_config({**tiny_config(), **changes}))
    with torch.no_grad():  # the last layer starts at zero
        for parameter in built.backbone.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return built


def batch() -> Batch:
    audio = torch.randn(2, 1, 1024, generator=torch.Generator().manual_seed(1)) * 0.1
    return Batch(audio, [{"seconds_start": 0, "seconds_total": i + 1} for i in range(2)])


def test_a_second_time_is_drawn_for_item_and_position() -> None:
    student = model()
    student.objective = objective = Twice()
    module = DiffusionTraining(student, optimizer=ADAM, batch_size=2)
    assert module.training_step(batch()).requires_grad
    module.training_step(batch())
    module.position = 1
    module.training_step(batch())
    first, again, later = objective.shares
    assert torch.equal(first, again)
    assert len({*first.tolist(), *later.tolist()}) == 4
    stream = module.timesteps.state_dict()
    values = [module.validation_values(batch(), [5, 6]) for _ in range(2)]
    assert all(torch.equal(v, values[1][k]) for k, v in values[0].items())
    assert module.timesteps.state_dict()["sobol"] == stream["sobol"]
    swapped = module.validation_values(Batch(batch().audio.flip(0), batch().metadata[::-1]), [6, 5])
    assert torch.allclose(swapped["val/avg_loss"].flip(0), values[0]["val/avg_loss"], rtol=1e-4)


def test_it_trains_and_continues_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RectifiedFlowObjective, "compare", Twice.compare)
    whole = tiny_run(tmp_path, name="whole", max_steps=3)
    assert whole.start() == 0
    assert tiny_run(tmp_path, name="part", max_steps=2).start() == 0
    again = tiny_run(tmp_path, name="part", max_steps=3, recover=True)
    assert again.start() == 0
    expected = whole.module.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in again.module.state_dict().items())


def test_the_loss_is_that_of_the_teacher() -> None:
    student, teacher = model(), model(1)
    student.objective = Taught()
    module = DiffusionTraining(student, optimizer=ADAM, batch_size=2, teacher=Teacher(teacher))
    step = module.prepare(batch(), module.draws())
    loss = module.score(student.objective.compare(step.point), step)
    x_t = student.objective.noisy(step.point.x0, step.point.noise, step.point.t)
    with torch.no_grad():
        theirs = teacher(x_t, step.point.t, teacher.condition(batch().metadata))
        ours = student(x_t, step.point.t, step.conditioning)
    assert torch.allclose(loss, (ours - theirs).square().mean(), rtol=1e-5)
    loss.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.backbone.parameters())


def test_an_objective_without_its_teacher_is_refused() -> None:
    student = model()
    student.objective = Taught()
    with pytest.raises(TrainingError, match=r"ckpt: missing; the objective 'rectified_flow' learns from a t"):
        DiffusionTraining(student, optimizer=ADAM)
    with pytest.raises(TrainingError, match=r"learns from a diffusion model, found Linear"):
        DiffusionTraining(student, optimizer=ADAM, teacher=Teacher(torch.nn.Linear(1, 1)))
    other = tiny_config()
    other["model"]["io_channels"] = other["model"]["diffusion"]["config"]["io_channels"] = 16
    other["model"]["pretransform"]["config"]["patch_size"] = 16
    with pytest.raises(TrainingError, match=r"the teacher has .* \(16, 16\), the model \(32, 32\)"):
        DiffusionTraining(student, optimizer=ADAM, teacher=Teacher(model(1, model=other["model"])))
