"""Clips that share rows are trained on as if each were alone: loss, gradients, draws, resumed runs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from stable_audio.config import load_config
from stable_audio.config.rules.datasets import packing_problems
from stable_audio.data.base import Batch, Packed
from stable_audio.diffusion.shift import DistributionShift
from stable_audio.diffusion.timesteps import LogitNormal, Timesteps, Uniform
from stable_audio.factory import create_model_from_config
from stable_audio.training.batches.draws import StepDraws
from stable_audio.training.build import build_training
from stable_audio.training.check.report import report_on
from stable_audio.training.diffusion.frame_masks import masked_std
from stable_audio.training.diffusion.module import DiffusionTraining
from stable_audio.training.errors import TrainingError
from tests.data.test_pre_encoded import make_npy
from tests.training.building import tiny_config, tiny_run
from tests.training.saving.test_resume import assert_same_checkpoint

LENGTHS = [12, 4, 8, 2]


class GivenDraws:
    """Hands out stored values, those of one clip or of all."""

    def __init__(self, t: Tensor, noise: Tensor, keep: list[Tensor], first: int = 0) -> None:
        self.t, self.drawn, self.keep, self.first = t, noise, list(keep), first

    def timesteps(self, n: int, length: Any) -> Tensor:
        return self.t

    def noise(self, like: Tensor, lengths: Any = None) -> Tensor:
        return self.drawn[..., : like.shape[-1]]

    def encoder_noise(self, like: Tensor) -> Tensor:
        raise AssertionError("latents need no encoder")

    def bernoulli(self, n: int, prob: float) -> Tensor:
        return self.keep.pop(0)

    def coin(self, prob: float) -> bool:
        return True

    def item_random(self, item: int) -> random.Random:
        return random.Random(self.first + item)


def _config(diffusion: dict[str, Any] | None = None, **training: Any) -> dict[str, Any]:
    config = tiny_config(pre_encoded=True, cfg_dropout_prob=0.5, **training)
    section = config["model"]["diffusion"]
    section["config"].update(diffusion or {})
    return config


def _inpainting() -> dict[str, Any]:
    config = _config({"input_concat_dim": 33}, inpainting={"mask_kwargs": {"max_mask_segments": 2}})
    config["model_type"] = "diffusion_cond_inpaint"
    config["model"]["diffusion"]["input_concat_ids"] = ["inpaint_mask", "inpaint_masked_input"]
    config["training"]["inpainting"]["mask_kwargs"]["mask_type_probabilities"] = [0.4, 0.2, 0.4]
    return config


def _module(config: dict[str, Any]) -> DiffusionTraining:
    torch.manual_seed(0)
    loaded = load_config(config)
    module = build_training(loaded, create_model_from_config(loaded), batch_size=2)
    assert isinstance(module, DiffusionTraining)
    with torch.no_grad():
        for parameter in module.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module.double()


def _batch(lengths: list[int] = LENGTHS) -> Batch:
    audio = torch.zeros(len(lengths), 32, max(lengths), dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    for i, n in enumerate(lengths):
        audio[i, :, :n] = torch.randn(32, n, generator=generator)
    items = [{"seconds_start": i, "seconds_total": i + 1} for i in range(len(lengths))]
    return Batch(audio, items, Packed(lengths, 0, len(lengths)))


def _given(count: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(count, 32, length, generator=generator, dtype=torch.float64)
    return torch.tensor([0.1, 0.9, 0.4, 0.6][:count]).double(), noise, torch.arange(count) % 2 == 1


CONFIGS: dict[str, dict[str, Any]] = {
    "plain": _config(),
    "adaLN, patches": _config({"global_cond_type": "adaLN", "patch_size": 2}),
    "memory": _config({"num_memory_tokens": 2}, gradient_checkpointing=True),
    "padding is masked anyway": _config(mask_padding=True, mask_padding_dropout=1.0),
    "two terms": _config(
        loss_configs={
            "diffusion": {"type": "huber", "config": {"delta": 0.3}},
            "clean": {"type": "l1", "weight": 0.3, "config": {"space": "denoised"}},
        }
    ),
    "inpainting": _inpainting(),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_loss_is_that_of_the_clips_one_by_one(name: str) -> None:
    """sum_i n_i l_i / sum_i n_i, with l_i from plain batches of one clip without padding."""
    module, batch = _module(CONFIGS[name]), _batch()
    t, noise, keep = _given(len(LENGTHS), max(LENGTHS))
    loss = module.training_step(batch, draws=GivenDraws(t, noise, [keep]))
    loss.backward()
    found = {k: p.grad.clone() for k, p in module.model.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)

    terms = []
    for i, n in enumerate(LENGTHS):
        own = slice(i, i + 1)
        single = Batch(batch.audio[own, :, :n], [{**batch.metadata[i], "padding_mask": torch.ones(n)}])
        draws = GivenDraws(t[own], noise[own], [keep[own]], first=i)
        terms.append(n * module.training_step(single, draws=draws))
    alone = torch.stack(terms).sum() / sum(LENGTHS)
    alone.backward()
    torch.testing.assert_close(loss, alone, rtol=1e-6, atol=1e-7)
    for key, parameter in module.model.named_parameters():
        assert (key in found) == (parameter.grad is not None), key
        if parameter.grad is not None:
            torch.testing.assert_close(found[key], parameter.grad, rtol=1e-5, atol=1e-8, msg=key)


def test_padded_batches_with_masks_weigh_clips_alike() -> None:
    """What is in the padding reaches real frames of a padded batch, so only a pointwise backbone agrees."""
    module, batch = _module(_config(mask_padding=True)), _batch()
    for block in module.model.backbone.transformer.layers:
        torch.nn.init.zeros_(block.self_attn.to_out.weight)
    t, noise, keep = _given(len(LENGTHS), max(LENGTHS))
    packed = module.training_step(batch, draws=GivenDraws(t, noise, [keep]))
    n = max(LENGTHS)
    masks = [torch.arange(n) < length for length in LENGTHS]
    padded = [{**m, "padding_mask": mask} for m, mask in zip(batch.metadata, masks)]
    loss = module.training_step(Batch(batch.audio, padded), draws=GivenDraws(t, noise, [keep]))
    torch.testing.assert_close(packed, loss, rtol=1e-6, atol=1e-7)


def test_a_last_patch_that_is_not_full_counts_its_real_frames() -> None:
    module, lengths = _module(_config({"patch_size": 4}, mask_padding=True)), [7, 3]
    batch, (t, noise, keep) = _batch(lengths), _given(2, 8)
    loss = module.training_step(batch, draws=GivenDraws(t, noise, [keep]))
    terms = []
    for i, (n, whole) in enumerate(zip(lengths, (8, 4))):
        own = slice(i, i + 1)
        audio = torch.nn.functional.pad(batch.audio[own, :, :n], (0, whole - n))
        single = Batch(audio, [{**batch.metadata[i], "padding_mask": torch.arange(whole) < n}])
        terms.append(n * module.training_step(single, draws=GivenDraws(t[own], noise[own], [keep[own]])))
    torch.testing.assert_close(loss, torch.stack(terms).sum() / 10, rtol=1e-6, atol=1e-7)


def test_what_is_logged_leaves_padding_out() -> None:
    module, batch = _module(_config()), _batch()
    module.training_step(batch)
    real = torch.cat([z[:, :n].flatten() for z, n in zip(batch.audio, LENGTHS)])
    assert module.window.means()["train/std_data"] == pytest.approx(float(real.std()), rel=1e-6)
    mask = torch.ones(1, 1, 5, dtype=torch.bool)
    x = torch.randn(1, 3, 5)
    torch.testing.assert_close(masked_std(x, mask), x.std())


def test_validation_runs_on_rows() -> None:
    module, batch = _module(_config()), _batch()
    whole = module.validation_values(batch, range(len(LENGTHS)))
    assert all(v.shape == (len(LENGTHS),) and v.isfinite().all() for v in whole.values())
    # Behind the clips nothing counts.
    longer = Batch(torch.nn.functional.pad(batch.audio, (0, 4)), batch.metadata, batch.packed)
    for key, value in module.validation_values(longer, range(len(LENGTHS))).items():
        torch.testing.assert_close(value, whole[key])


def _draws(first: int, total: int, *, rank: int = 0, world_size: int = 1, **options: Any) -> StepDraws:
    timesteps = Timesteps(Uniform(), seed=5, rank=rank, world_size=world_size, **options)
    return StepDraws(
        timesteps=timesteps,
        seed=5,
        position=3,
        rank=rank,
        world_size=world_size,
        batch_size=2,
        packed=Packed([], first, total),
    )


def test_ranks_with_unequal_rows_draw_what_one_process_draws() -> None:
    """And a clip's noise does not depend on the clips that it shares a batch with."""
    lengths = [5, 3, 9, 2, 7]
    whole = _draws(0, 5)
    first, second = (_draws(a, 5, rank=r, world_size=2) for r, a in enumerate((0, 3)))
    split = ((first, lengths[:3]), (second, lengths[3:]))
    t, noise = whole.timesteps(5, lengths), whole.noise(torch.empty(5, 2, 9), lengths)
    assert torch.equal(torch.cat([d.timesteps(len(n), n) for d, n in split]), t)
    parts = [d.noise(torch.empty(len(n), 2, max(n)), n) for d, n in split]
    for drawn, own, n in zip(noise, [z for part in parts for z in part], lengths):
        assert torch.equal(drawn[:, :n], own[:, :n])
        assert drawn[:, :n].std() > 0.3
        assert not drawn[:, n:].any()
    assert torch.equal(torch.cat([d.bernoulli(len(n), 0.5) for d, n in split]), whole.bernoulli(5, 0.5))
    # Both streams of t are where the single one is, though the ranks had unequal parts.
    states = [d._timesteps.state_dict()["sobol"] for d in (whole, first, second)]
    assert states == [5, 5, 5]


def test_t_is_shifted_by_the_length_of_the_clip() -> None:
    shift = DistributionShift(min_length=4, max_length=64)
    lengths = [4, 64, 20]
    plain = Timesteps(LogitNormal(), seed=1).part(5, slice(1, 4))
    shifted = Timesteps(LogitNormal(), seed=1, shift=shift).part(5, slice(1, 4), length=lengths)
    assert torch.equal(shifted, torch.stack([shift(t, n) for t, n in zip(plain, lengths)]))


def _latents(folder: Path) -> dict[str, Any]:
    for number, length in enumerate([5, 9, 3, 12, 7, 4, 30, 8, 2, 6]):
        make_npy(folder, f"{number}", length, length, seconds_total=number)
    for path in folder.glob("*.npy"):  # the tiny model has 32 channels
        length = np.load(path).shape[-1]
        random_values = np.random.default_rng(length).standard_normal((32, length))
        np.save(path, random_values.astype(np.float32))
    entry = {"id": "a", "path": str(folder)}
    return {"dataset_type": "pre_encoded", "datasets": [entry], "pack_length": 16, "drop_last": False}


def test_a_continued_run_is_bit_identical(tmp_path: Path) -> None:
    """In the middle of an epoch, which has about three batches of two rows."""
    data, config = _latents(tmp_path / "latents"), _config(p_one_shot=0.2)
    config["model"]["diffusion"]["distribution_shift_options"] = {"min_length": 4, "max_length": 64}
    options = {"dataset": data, "val_dataset": data, "val_every": 2}
    tiny_run(tmp_path, config, name="whole", max_steps=8, **options).start()
    tiny_run(tmp_path, config, name="parts", max_steps=4, **options).start()
    tiny_run(tmp_path, config, name="parts", max_steps=8, recover=True, **options).start()
    assert_same_checkpoint(tmp_path / "whole" / "last.ckpt", tmp_path / "parts" / "last.ckpt")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "conformer": (_config({"conformer": True}), r"model\.diffusion\.config: clips cannot .* conformer"),
    "convolution": (_config({"ff_kwargs": {"use_conv": True}}), r"ff_kwargs\.use_conv"),
    "x-transformers": (
        _config({"transformer_type": "x-transformers", "embed_dim": 64, "ff_kwargs": {}}),
        "x-transformers",
    ),
    "audio": (tiny_config(), r"training\.pre_encoded: must be true"),
    "spectral": (
        _config(loss_configs={"texture": {"type": "spectral", "weight": 0.1}}),
        r"training\.loss_configs\.texture: a spectral loss",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_cannot_pack_are_refused(tmp_path: Path, name: str) -> None:
    config, message = REFUSED[name]
    data = _latents(tmp_path / "latents")
    loaded = load_config(config)
    assert packing_problems(loaded, {**data, "pack_length": None}, None) == []
    assert packing_problems(loaded, None, None) == []
    with pytest.raises(TrainingError, match=message):
        tiny_run(tmp_path, config, dataset=data)
    with pytest.raises(TrainingError, match=message):
        tiny_run(tmp_path, config, dataset={**data, "pack_length": None}, val_dataset=data)
    for file, content in (("model.json", config), ("data.json", data)):
        (tmp_path / file).write_text(json.dumps(content))
    report = report_on(tmp_path / "model.json", tmp_path / "data.json", dry=True)
    assert any("pack_length" in e or "pre_encoded" in e for e in report["errors"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo's
def test_a_compiled_run_compiles_its_rows_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, blocks = torch.nn.Module.compile, []

    def eager(self: torch.nn.Module) -> None:
        blocks.append(self)
        original(self, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", eager)
    torch._dynamo.reset()
    counters.clear()
    data = {**_latents(tmp_path / "latents"), "drop_last": True}  # a batch of one clip is compiled by itself
    assert tiny_run(tmp_path, _config(), dataset=data, compile=True, max_steps=4).start() == 0
    assert len(blocks) == 2
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    torch._dynamo.reset()


def test_a_spectral_loss_is_refused_whoever_made_the_batch() -> None:
    module = _module(REFUSED["spectral"][0])
    with pytest.raises(TrainingError, match="spectral loss"):
        module.training_step(_batch())
