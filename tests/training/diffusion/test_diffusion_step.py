"""One training step: masks, pre-encoded latents, dropout, sources of randomness, loss terms from a config."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stable_audio.audio.padding import PaddingMask
from stable_audio.config import load_config
from stable_audio.data.base import Batch
from stable_audio.factory import create_model_from_config
from stable_audio.training.build import build_training
from stable_audio.training.diffusion.module import DiffusionTraining
from stable_audio.training.errors import TrainingError
from tests.training.building import tiny_config


def _module(config: dict[str, Any] | None = None, **training: Any) -> DiffusionTraining:
    torch.manual_seed(0)
    loaded = load_config(config if config is not None else tiny_config(**training))
    module = build_training(loaded, create_model_from_config(loaded), batch_size=2)
    assert isinstance(module, DiffusionTraining)
    return module


def _batch(**metadata: Any) -> Batch:
    audio = torch.randn(2, 1, 1024, generator=torch.Generator().manual_seed(1)) * 0.1
    items = [{"seconds_start": 0, "seconds_total": i + 1, **metadata} for i in range(2)]
    return Batch(audio, items)


def test_a_step_depends_on_seed_and_position_only() -> None:
    first, second = _module(), _module()
    torch.rand(17)
    a, b = first.training_step(_batch()), second.training_step(_batch())
    assert torch.equal(a, b)
    second.position = 1
    assert not torch.equal(a, second.training_step(_batch()))


@pytest.mark.parametrize("wrapped", [False, True])
def test_padding_does_not_enter_the_loss(wrapped: bool) -> None:
    mask = torch.ones(1024)
    mask[512:] = 0
    batch = _batch(padding_mask=[mask] if wrapped else mask)
    module = _module(mask_padding=True)
    step = module.prepare(batch, module.draws())
    assert step.mask is not None
    assert step.mask.shape == (2, 1, 32)
    assert step.mask[:, :, :16].all()
    assert not step.mask[:, :, 16:].any()
    compared = module.model.objective.compare(step.point)
    loss = module.score(compared, step)
    # The target may be anything where there is padding.
    compared.target[:, :, 16:] = 1e6
    assert torch.equal(module.score(compared, step), loss)


@pytest.mark.parametrize("length", [1024, 1000])
@pytest.mark.parametrize("real", [0, 1, 333, 512, 999, 1000])
def test_a_length_masks_what_its_tensor_does(length: int, real: int) -> None:
    module, mask = _module(mask_padding=True), PaddingMask(real, length)
    found = [module.prepare(_batch(padding_mask=m), module.draws()).mask for m in (mask, mask.tensor())]
    assert found[0] is not None
    assert found[1] is not None
    assert torch.equal(*found)


def test_padding_masks_must_be_there_when_asked_for() -> None:
    module = _module(mask_padding=True)
    with pytest.raises(TrainingError, match="2 of 2 have none"):
        module.training_step(_batch())


def test_mask_padding_dropout_keeps_padding_in_a_share_of_batches() -> None:
    module = _module(mask_padding=True, mask_padding_dropout=0.3)
    batch = _batch(padding_mask=torch.zeros(1024))
    without = 0
    for module.position in range(300):
        without += module._loss_mask(torch.ones(2, 1, 4, dtype=torch.bool), module.draws()) is None
    assert without / 300 == pytest.approx(0.3, abs=0.08)
    assert batch.audio.shape[0] == 2


def test_pre_encoded_latents_are_scaled_not_encoded() -> None:
    module = _module(pre_encoded=True)
    latents = torch.randn(2, 32, 32)
    assert torch.equal(module.latents(latents, torch.zeros_like), latents)
    module.model.pretransform.scale = 4.0  # type: ignore[union-attr, assignment]
    assert torch.equal(module.latents(latents, torch.zeros_like), latents / 4)


def test_conditioning_is_dropped_at_the_given_rate() -> None:
    module = _module(cfg_dropout_prob=0.25)
    dropped = total = 0
    for module.position in range(200):
        cond = module.prepare(_batch(), module.draws()).conditioning.cross_attn
        assert cond is not None
        dropped += int(cond.flatten(1).eq(0).all(1).sum())
        total += cond.shape[0]
    assert dropped / total == pytest.approx(0.25, abs=0.06)


def test_loss_terms_of_a_config() -> None:
    losses = {
        "diffusion": {"type": "huber", "weight": 2.0, "config": {"delta": 0.5}},
        "texture": {"type": "spectral", "weight": 0.1},
    }
    module = _module(loss_configs=losses)
    loss = module.training_step(_batch())
    values = module.window.means()
    expected = 2 * values["train/huber_loss"] + 0.1 * values["train/texture_loss"]
    assert torch.allclose(loss, expected)


def test_an_inpainting_model_sees_what_is_kept() -> None:
    config = tiny_config(inpainting={"mask_kwargs": {"mask_type_probabilities": [0, 0, 1]}})
    config["model_type"] = "diffusion_cond_inpaint"
    diffusion = config["model"]["diffusion"]
    diffusion["config"]["input_concat_dim"] = 33
    diffusion["input_concat_ids"] = ["inpaint_mask", "inpaint_masked_input"]
    module = _module(config)
    mask = torch.ones(1024)
    mask[768:] = 0
    step = module.prepare(_batch(padding_mask=mask), module.draws())
    given = step.conditioning.input_concat
    assert given is not None
    kept = given[:, :1]
    assert torch.equal(given[:, 1:], step.point.x0 * kept)
    assert kept[:, :, 24:].eq(1).all()
    values = module.validation_values(_batch(), [0, 1])
    assert values["val/avg_loss"].isfinite().all()
    module.training_step(_batch()).backward()


def test_the_average_can_include_conditioners() -> None:
    assert all(k.startswith("backbone.") for k in _module().ema.average)  # type: ignore[union-attr]
    both = _module(ema={"include_conditioner": True, "beta": 0.5})
    assert any(k.startswith("conditioner.") for k in both.ema.average)  # type: ignore[union-attr]
    assert both.ema.rule.beta == 0.5  # type: ignore[union-attr]
    assert _module(use_ema=False).ema is None


def test_gradient_checkpointing_changes_nothing_but_memory() -> None:
    gradients = []
    for enabled in (False, True):
        module = _module(gradient_checkpointing=enabled)
        module.training_step(_batch()).backward()
        gradients.append([p.grad for p in module.model.backbone.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*gradients))


def test_unconditional_training() -> None:
    config = {
        "model_type": "diffusion_uncond",
        "sample_size": 1024,
        "sample_rate": 4000,
        "audio_channels": 1,
        "model": {
            "type": "dit",
            "config": {"in_channels": 1, "patch_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 1},
        },
        "training": {"learning_rate": 1e-4},
    }
    loss = _module(config).training_step(Batch(torch.randn(2, 1, 1024), [{}, {}]))
    assert torch.isfinite(loss)
