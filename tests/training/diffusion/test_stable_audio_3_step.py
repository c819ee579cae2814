"""A training step with the keys of Stable Audio 3: lengths, silence, coupling, inpainting masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stable_audio.audio.padding import PaddingMask
from stable_audio.config import load_config
from stable_audio.data.base import Batch, Packed
from stable_audio.diffusion.coupling import coupled
from stable_audio.factory import create_model_from_config
from stable_audio.training.build import build_training
from stable_audio.training.diffusion.module import DiffusionTraining
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from tests.training.building import tiny_config

FRAMES = 32
SECONDS = [0.25, 0.1, 0.06]


def _module(diffusion: dict[str, Any] | None = None, **training: Any) -> DiffusionTraining:
    torch.manual_seed(0)
    values = tiny_config(**training)
    values["model"]["diffusion"] |= diffusion or {}
    config = load_config(values)
    module = build_training(config, create_model_from_config(config), batch_size=3)
    assert isinstance(module, DiffusionTraining)
    return module


def _batch() -> Batch:
    samples = [round(s * 4000) for s in SECONDS]
    metadata: list[dict[str, Any]] = [
        {"seconds_start": 0.0, "seconds_total": s, "padding_mask": PaddingMask(n, 1024)}
        for s, n in zip(SECONDS, samples)
    ]
    return Batch(torch.randn(3, 1, 1024, generator=torch.Generator().manual_seed(1)), metadata)


def test_t_is_shifted_by_the_seconds_of_each_clip() -> None:
    shift = {"type": "logsnr", "anchor_length": 16, "rate": 1.0}
    plain = _module().prepare(_batch(), _module().draws()).point.t
    module = _module({"distribution_shift_options": shift, "use_effective_length_for_schedule": True})
    found = module.prepare(_batch(), module.draws()).point.t
    assert module.model.dist_shift is not None
    expected = [module.model.dist_shift(t, n) for t, n in zip(plain, (32, 13, 8))]  # ceil(1000 / 32), ...
    assert found.tolist() == pytest.approx([float(t) for t in expected], abs=1e-6)


def test_silence_behind_a_clip_counts_as_sound_and_is_drawn_by_item() -> None:
    silence = {"mask_padding_attention": True}
    module = _module(silence, silence_extension_scale_seconds=0.05)
    step = module.prepare(_batch(), module.draws())
    lengths = step.conditioning.padding_mask.sum(1).tolist()  # type: ignore[union-attr]
    units = module.draws().exponential(3)
    assert lengths == [min(32, n + int(u * 0.05 * 4000 / 32)) for n, u in zip((32, 13, 8), units)]
    assert step.groups is not None
    assert step.groups.signal.sum((1, 2)).tolist() == lengths
    without = _module(silence).prepare(_batch(), module.draws())
    assert without.conditioning.padding_mask.sum(1).tolist() == [32, 13, 8]  # type: ignore[union-attr]


def test_noise_is_assigned_within_the_batch() -> None:
    plain, module = _module(), _module(ot_coupling=True)
    drawn = plain.prepare(_batch(), plain.draws()).point
    found = module.prepare(_batch(), module.draws()).point
    assert torch.equal(found.noise, drawn.noise[coupled(drawn.x0, drawn.noise)])
    assert torch.equal(found.t, drawn.t)


def test_validation_counts_the_signal_alone() -> None:
    module = _module({"mask_padding_attention": True})
    batch = _batch()
    values = module.validation_values(batch, [0, 1, 2])
    behind = batch.audio.clone()
    behind[1, :, 13 * 32 :] = 5.0
    again = module.validation_values(batch._replace(audio=behind), [0, 1, 2])
    assert torch.allclose(values["val/avg_loss"], again["val/avg_loss"], atol=1e-5)


@pytest.mark.parametrize(
    ("diffusion", "training", "message"),
    [
        ({"mask_padding_attention": True}, {"silence_extension_scale_seconds": 1.0}, "silence_extension"),
        ({}, {"ot_coupling": True}, "ot_coupling"),
    ],
)
def test_clips_that_share_rows_refuse_what_mixes_them(
    diffusion: dict[str, Any], training: dict[str, Any], message: str
) -> None:
    module = _module(diffusion, **training)
    packed = Packed(lengths=[32, 13, 8], first=0, total=3)
    batch = _batch()._replace(packed=packed, audio=torch.randn(3, 1, 1024))
    with pytest.raises(TrainingError, match=f"clips cannot share rows with {message}"):
        module.prepare(batch, module.draws(packed=packed))


def test_the_file_says_how_often_a_line_is_logged_unless_the_run_does() -> None:
    section = load_config(tiny_config(log_every_n_steps=7)).training
    assert RunOptions.from_section(section).log_every == 7
    assert RunOptions.from_section(section, log_every=3).log_every == 3
    assert RunOptions.from_section(load_config(tiny_config()).training).log_every == 1
