"""The diffusers export, loaded with diffusers itself."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.backbones.dit import DiT
from stable_audio.checkpoints import CheckpointError
from stable_audio.checkpoints.diffusers import export_diffusers, oobleck_state
from stable_audio.conditioning import CONDITIONERS, MultiConditioner, SlotWiring
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.model import DiffusionModel
from stable_audio.pretransforms.autoencoder import Autoencoder, AutoencoderPretransform
from stable_audio.pretransforms.bottlenecks import BOTTLENECKS
from stable_audio.pretransforms.conv import fold_weight_norm
from stable_audio.pretransforms.oobleck import OobleckDecoder, OobleckEncoder

diffusers = pytest.importorskip("diffusers")

CODER = {"channels": 8, "c_mults": [1, 2], "strides": [2, 4], "use_snake": True}
DIFFUSION = {
    "io_channels": 4,
    "embed_dim": 256,
    "num_heads": 4,
    "depth": 2,
    "cond_token_dim": 128,
    "project_cond_tokens": False,
    "global_cond_dim": 24,
}


def config(**diffusion: Any) -> dict[str, Any]:
    return {
        "model_type": "diffusion_cond",
        "sample_rate": 16000,
        "sample_size": 128,
        "model": {
            "io_channels": 4,
            "diffusion": {"type": "dit", "config": {**DIFFUSION, **diffusion}},
            "pretransform": {
                "type": "autoencoder",
                "config": {
                    "encoder": {"type": "oobleck", "config": {**CODER, "latent_dim": 8}},
                    "decoder": {"type": "oobleck", "config": {**CODER, "latent_dim": 4, "final_tanh": False}},
                    "bottleneck": {"type": "vae"},
                    "latent_dim": 4,
                    "downsampling_ratio": 8,
                    "io_channels": 2,
                },
            },
        },
    }


def build() -> DiffusionModel:
    torch.manual_seed(0)
    autoencoder = Autoencoder(
        encoder=OobleckEncoder(**CODER, latent_dim=8),
        decoder=OobleckDecoder(**CODER, latent_dim=4, final_tanh=False),
        bottleneck=BOTTLENECKS["vae"](),
        latent_dim=4,
        downsampling_ratio=8,
        io_channels=2,
    )
    text = {"width": 12, "layers": 1, "heads": 2, "vocab_size": 258}
    conditioners = {
        "prompt": CONDITIONERS["clip_text"](output_dim=12, **text),
        "seconds_start": CONDITIONERS["number"](output_dim=12, max_val=512),
        "seconds_total": CONDITIONERS["number"](output_dim=12, max_val=512),
    }
    model = DiffusionModel(
        backbone=DiT(**DIFFUSION),
        objective=OBJECTIVES["v"](),
        conditioner=MultiConditioner(conditioners),
        wiring=SlotWiring(cross_attn_ids=["prompt"], global_ids=["seconds_start", "seconds_total"]),
        pretransform=AutoencoderPretransform(model=autoencoder),
        sample_rate=16000,
        sample_size=128,
        audio_channels=2,
    )
    for parameter in model.parameters():
        parameter.data.normal_(std=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> DiffusionModel:
    return build()


@pytest.fixture(scope="module")
def folder(model: DiffusionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_diffusers(model, tmp_path_factory.mktemp("pipeline"), config=config())


@torch.no_grad()
def test_backbone(model: DiffusionModel, folder: Path) -> None:
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    from stable_audio.types import Conditioning

    theirs = diffusers.StableAudioDiTModel.from_pretrained(folder / "transformer").eval()
    x, t = torch.randn(2, 4, 16), torch.tensor([0.2, 0.9])
    cond = Conditioning(cross_attn=torch.randn(2, 5, 128), global_=torch.randn(2, 24))
    rotary = get_1d_rotary_pos_embed(32, 17, use_real=True, repeat_interleave_real=False)
    expected = theirs(x, t, cond.cross_attn, cond.global_.unsqueeze(1), rotary_embedding=rotary).sample
    torch.testing.assert_close(model.backbone(x, t, cond), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_autoencoder(model: DiffusionModel, folder: Path) -> None:
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


@torch.no_grad()
def test_number_conditioners(model: DiffusionModel, folder: Path) -> None:
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    theirs = StableAudioProjectionModel.from_pretrained(folder / "projection_model").eval()
    found = theirs(torch.zeros(1, 1, 12), torch.tensor([3.0]), torch.tensor([200.0]))
    for name, value in (("seconds_start", 3.0), ("seconds_total", 200.0)):
        ours, _ = model.conditioner.conditioners[name]([value], "cpu")
        other = (
            found.seconds_start_hidden_states if name == "seconds_start" else found.seconds_end_hidden_states
        )
        torch.testing.assert_close(ours, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"global_cond_type": "adaLN"}, "global_cond_type"),
        ({"patch_size": 2}, "patch_size"),
        ({"attn_kwargs": {"qk_norm": "ln"}}, "attn_kwargs"),
        ({"cond_token_dim": 0}, "cond_token_dim"),
    ],
)
def test_what_the_layout_cannot_hold_is_refused(
    model: DiffusionModel, tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    with pytest.raises(CheckpointError, match=match):
        export_diffusers(model, tmp_path / "out", config=config(**changes))
    assert not (tmp_path / "out").exists()
