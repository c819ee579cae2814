"""The diffusers export, against diffusers itself: whole pipelines, and the networks one by one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.checkpoints import CheckpointError
from stable_audio.checkpoints.diffusers import export_diffusers, export_diffusers_backbone
from stable_audio.checkpoints.diffusers.weights import oobleck_state
from stable_audio.factory import create_model_from_config
from stable_audio.inference.generation.generate import generate
from stable_audio.model import DiffusionModel
from stable_audio.pretransforms.conv import fold_weight_norm
from tests.checkpoints.tiny_pipeline import VARIANTS, config, disturb, save_text_encoder, variant

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("torchsde", reason="the scheduler of Stable Audio needs it")
pytest.importorskip("transformers")

SIGMAS = (0.3, 500.0)
PROMPTS = ["rock drum loop with soft piano strings", "ambient piano"]
NEGATIVE = ["noise", "soft noise drum"]
SECONDS = 1.5

TOLERANCE = 1e-3
"""Relative. In float32 the pipelines below differ by 2e-6; what must be refused, by 4e-3 and more."""


def build(settings: dict[str, Any]) -> DiffusionModel:
    torch.manual_seed(0)
    model: DiffusionModel = create_model_from_config(settings)
    disturb(model)
    return model.eval()


@pytest.fixture(scope="module")
def text_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_text_encoder(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="module")
def model(text_encoder: str) -> DiffusionModel:
    return build(config(text_encoder))


@pytest.fixture(scope="module")
def folder(model: DiffusionModel, text_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_diffusers(model, tmp_path_factory.mktemp("pipeline"), config=config(text_encoder))


class _Draws:
    """The same noise for both: one tensor after the other."""

    def __init__(self, like: Tensor, **_: Any) -> None:
        self.shape, self.generator = like.shape, torch.Generator().manual_seed(5)

    def __call__(self, *_: Any) -> Tensor:
        return torch.randn(self.shape, generator=self.generator)


def rendered_by_diffusers(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, start: Tensor, scale: float, negative: list[str] | None
) -> Tensor:
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_cosine_dpmsolver_multistep.BrownianTreeNoiseSampler", _Draws
    )
    pipeline = diffusers.StableAudioPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        PROMPTS,
        audio_end_in_s=SECONDS,
        num_inference_steps=4,
        guidance_scale=scale,
        latents=start.clone(),
        negative_prompt=negative,
    ).audios


def rendered_here(
    model: DiffusionModel, *, start: Tensor, scale: float, negative: list[str] | None
) -> Tensor:
    low, high = SIGMAS
    return generate(
        model,
        [{"prompt": p, "seconds_start": 0.0, "seconds_total": SECONDS} for p in PROMPTS],
        negative_conditioning=None if negative is None else [{"prompt": p} for p in negative],
        steps=4,
        cfg_scale=scale,
        sampler="dpmpp-2m-sde",
        sigma_min=low,
        sigma_max=high,
        # diffusers begins with noise of deviation sqrt(sigma^2 + 1).
        start_noise=start * (high**2 + 1) ** 0.5 / high,
        noise=_Draws(start),
    )[..., : int(SECONDS * model.sample_rate)]


def difference(
    model: DiffusionModel, folder: Path, monkeypatch: pytest.MonkeyPatch, negative: list[str] | None = None
) -> float:
    """Relative, between clips of 4 guided steps from the same noise."""
    start = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(3))
    settings: dict[str, Any] = {"start": start, "scale": 4.0, "negative": negative}
    theirs = rendered_by_diffusers(folder, monkeypatch, **settings)
    ours = rendered_here(model, **settings)
    assert ours.shape == theirs.shape
    assert ours.std() > 0.1
    return ((theirs - ours).norm() / ours.norm()).item()


@pytest.mark.parametrize("negative", [None, NEGATIVE], ids=["zeros", "negative prompt"])
def test_the_pipeline_renders_the_same(
    model: DiffusionModel, folder: Path, monkeypatch: pytest.MonkeyPatch, negative: list[str] | None
) -> None:
    assert difference(model, folder, monkeypatch, negative) < TOLERANCE


@pytest.mark.parametrize("name", VARIANTS)
def test_every_held_option_renders_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = variant(name, tmp_path / "t5")
    model = build(settings)
    folder = export_diffusers(model, tmp_path / "out", config=settings)
    assert difference(model, folder, monkeypatch) < TOLERANCE


def test_prompts_are_padded_to_the_length_of_the_conditioner(
    model: DiffusionModel, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(folder / "tokenizer").model_max_length == 6
    # The comparison notices another length, and the model's own tokenizer stays as it was.
    assert model.conditioner.conditioners["prompt"].tokenizer.model_max_length == 512
    import shutil

    other = shutil.copytree(folder, tmp_path / "other")
    model.conditioner.conditioners["prompt"].tokenizer.save_pretrained(other / "tokenizer")
    assert difference(model, other, monkeypatch) > 4 * TOLERANCE


@torch.no_grad()
def test_the_backbone(model: DiffusionModel, folder: Path) -> None:
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    from stable_audio.types import Conditioning

    theirs = diffusers.StableAudioDiTModel.from_pretrained(folder / "transformer").eval()
    x, t = torch.randn(2, 4, 16), torch.tensor([0.2, 0.9])
    cond = Conditioning(cross_attn=torch.randn(2, 5, 64), global_cond=torch.randn(2, 128))
    rotary = get_1d_rotary_pos_embed(32, 17, use_real=True, repeat_interleave_real=False)
    expected = theirs(x, t, cond.cross_attn, cond.global_cond.unsqueeze(1), rotary_embedding=rotary).sample
    torch.testing.assert_close(model.backbone(x, t, cond), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_autoencoder(model: DiffusionModel, folder: Path) -> None:
    theirs = diffusers.AutoencoderOobleck.from_pretrained(folder / "vae").eval()
    audio, latents = torch.randn(2, 2, 64), torch.randn(2, 4, 8)
    torch.testing.assert_close(model.decode(latents), theirs.decode(latents).sample, atol=1e-4, rtol=1e-4)
    mean, _ = model.pretransform.model.encode_features(audio).chunk(2, dim=1)
    torch.testing.assert_close(mean, theirs.encode(audio).latent_dist.mean, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_folded_norms_are_split_again(model: DiffusionModel) -> None:
    """That library would leave weights without a norm at random, with no more than a warning."""
    autoencoder = copy.deepcopy(model.pretransform.model)
    expected = oobleck_state(autoencoder.state_dict())
    found = oobleck_state(fold_weight_norm(autoencoder).state_dict())
    assert found.keys() == expected.keys()
    for key in (k for k in found if k.endswith("_g")):
        before, after = (torch._weight_norm(s[key[:-1] + "v"], s[key], 0) for s in (expected, found))
        torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_all_weights_have_one_type(text_encoder: str, tmp_path: Path, dtype: torch.dtype | None) -> None:
    from safetensors.torch import load_file

    settings = config(text_encoder)
    settings["model"]["conditioning"]["configs"][0]["config"]["encoder_dtype"] = "float16"
    settings["model"]["pretransform"]["model_half"] = True
    model = build(settings)
    out = export_diffusers(model, tmp_path / "out", config=settings, dtype=dtype)
    types = {
        file.parent.name: {v.dtype for v in load_file(file).values()} for file in out.glob("*/*.safetensors")
    }
    assert types.keys() == {"transformer", "vae", "projection_model", "text_encoder"}
    assert set().union(*types.values()) == {dtype or torch.float32}
    # The model itself is as before.
    assert model.dtype == torch.float32
    assert next(model.conditioner.conditioners["prompt"].encoder("cpu").parameters()).dtype == torch.float16


def test_a_folder_is_replaced_but_for_files_of_others(
    model: DiffusionModel, text_encoder: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "vae").mkdir(parents=True)
    (out / "vae" / "old.safetensors").touch()
    (out / "README.md").write_text("mine")
    export_diffusers(model, out, config=config(text_encoder))
    assert (out / "README.md").read_text() == "mine"
    assert not (out / "vae" / "old.safetensors").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="is a file"):
        export_diffusers(model, tmp_path / "file", config=config(text_encoder))


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_nothing_is_written_without_the_text_encoder(tmp_path: Path, file: str) -> None:
    settings = config(save_text_encoder(tmp_path / "t5"))
    model = build(settings)
    (tmp_path / "t5" / file).unlink()
    with pytest.raises(CheckpointError, match="contains its text encoder"):
        export_diffusers(model, tmp_path / "out", config=settings)
    assert [p.name for p in tmp_path.iterdir()] == ["t5"]


def test_nothing_is_written_when_writing_fails(
    model: DiffusionModel, text_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(
        type(model.conditioner.conditioners["prompt"].encoder("cpu")), "save_pretrained", full
    )
    with pytest.raises(OSError, match="no space left"):
        export_diffusers(model, tmp_path / "out", config=config(text_encoder))
    assert [p.name for p in tmp_path.rglob("*")] == ["out"]


def test_what_the_layout_cannot_hold_is_refused(
    model: DiffusionModel, text_encoder: str, tmp_path: Path
) -> None:
    settings = config(text_encoder, mask_cross_attention=True, norm_type="rms_norm")
    settings["model"]["diffusion"]["global_cond_ids"].reverse()
    with pytest.raises(CheckpointError) as refusal:
        export_diffusers(model, tmp_path / "out", config=settings)
    for path in ("config.mask_cross_attention", "config.norm_type", "global_cond_ids"):
        assert f"model.diffusion.{path} is" in str(refusal.value)
    with pytest.raises(CheckpointError, match="norm_type"):
        export_diffusers_backbone(model, tmp_path / "out", config=settings)
    assert not list(tmp_path.iterdir())


def test_files_of_the_folder_are_for_everyone(model: DiffusionModel, folder: Path, tmp_path: Path) -> None:
    """Some writers give their files to their owner alone."""
    (tmp_path / "usual").touch()
    usual = (tmp_path / "usual").stat().st_mode
    assert {p.stat().st_mode for p in folder.rglob("*") if p.is_file()} == {usual}
