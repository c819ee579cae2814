"""Models of discrete processes, from the file to training, demos and sound."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.config import load_config
from stable_audio.data.base import Batch
from stable_audio.diffusion.objectives import EpsilonObjective
from stable_audio.factory import create_model_from_config
from stable_audio.inference import generate
from stable_audio.training.build import build_training
from stable_audio.training.methods.diffusion import build_diffusion_demos
from tests.config import examples


def config(objective: str, **process: Any) -> dict[str, Any]:
    data = examples.uncond()
    del data["training"]["demo"]["demo_steps"]  # the default is more than this process has
    data["model"] = {
        "type": "mlp",
        "config": {"io_channels": 4, "width": 8, "depth": 1, "time": {"steps": 20}},
        "diffusion_objective": objective,
        "diffusion_process": {"type": "ddpm", "config": {"steps": 20, **process}},
        "pretransform": {"type": "patched", "config": {"channels": 1, "patch_size": 4}},
    }
    return data


@pytest.mark.parametrize("objective", ["epsilon", "x0", "v"])
def test_the_network_is_told_integer_steps_in_training_and_generation(
    objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_config(config(objective, beta_schedule="scaled_linear"))
    model = create_model_from_config(loaded)
    seen: list[Tensor] = []
    embedding = model.backbone.time_embedding
    positions = embedding.positions

    def spy(t: Tensor) -> Tensor:
        seen.append(t * 19)
        return positions(t)

    monkeypatch.setattr(embedding, "positions", spy)
    module = build_training(loaded, model, seed=3, batch_size=40)
    batch = Batch(audio=torch.randn(40, 1, 256), metadata=[{} for _ in range(40)])
    loss = module.training_step(batch)
    loss.backward()
    assert torch.isfinite(loss)
    steps = seen[-1]
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    assert sorted(set(steps.round().int().tolist())) == list(range(20))  # a Sobol sequence misses none

    seen.clear()
    audio = generate(model, seeds=[0, 1], steps=10)
    assert audio.shape == (2, 1, 256)
    assert torch.isfinite(audio).all()
    assert all(torch.allclose(s, s.round(), atol=1e-4) for s in seen)
    module.validation_values(batch, list(range(40)))
    assert all(torch.allclose(s, s.round(), atol=1e-4) for s in seen)


def test_the_loss_is_that_of_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """E |noise - output|^2, with x_t of the step that was drawn."""
    loaded = load_config(config("epsilon"))
    model = create_model_from_config(loaded)
    module = build_training(loaded, model, seed=3, batch_size=4)
    batch = Batch(audio=torch.randn(4, 1, 256), metadata=[{} for _ in range(4)])
    step = module.prepare(batch, module.draws(0))
    assert isinstance(model.objective, EpsilonObjective)
    alpha = model.objective.process.alphas[(step.point.t * 19).round().long()].view(4, 1, 1)
    compared = model.objective.compare(step.point)
    expected = alpha * step.point.x0 + (1 - alpha**2).sqrt() * compared.target
    assert torch.allclose(compared.x_t.double(), expected, atol=1e-5)
    silent = compared._replace(output=torch.zeros_like(compared.target))
    assert float(module.score(silent, step)) == pytest.approx(
        float(compared.target.square().mean()), rel=1e-6
    )


def test_demos_render_with_the_schedule_of_the_process() -> None:
    loaded = load_config(config("epsilon"))
    built = build_diffusion_demos(loaded)
    assert built is not None
    demos = list(built[0].render(create_model_from_config(loaded)))
    assert demos
    assert all(torch.isfinite(d.audio).all() for d in demos)


def test_generation_without_a_number_of_steps_takes_those_that_there_are() -> None:
    model = create_model_from_config(load_config(config("epsilon")))
    assert torch.equal(generate(model), generate(model, steps=20))
    with pytest.raises(ValueError, match="give 1 to 20, found 21"):
        generate(model, steps=21)


def test_schedules_of_steps_are_refused_on_continuous_processes_before_sampling() -> None:
    model = create_model_from_config(examples.uncond())
    with pytest.raises(ValueError, match="'trailing' counts the steps of a 'ddpm' process"):
        generate(model, schedule="trailing", steps=2)
