"""Every component does on the GPU what it does on the CPU."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.conditioning import CONDITIONERS
from stable_audio.config import load_config
from stable_audio.diffusion.samplers import SAMPLERS
from stable_audio.factory import create_model_from_config
from stable_audio.inference.generation.generate import generate
from tests import tiny
from tests.backbones.test_contracts import CASES, build, conditioning, inputs
from tests.training.building import tiny_config

CLOSE = {"atol": 2e-4, "rtol": 2e-3}


def _gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.cpu() for n, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", list(CASES))
def test_backbones(name: str) -> None:
    here = build(name)
    there = copy.deepcopy(here).to("cuda")
    (x, t), cond = inputs(here), conditioning(here)
    outs = [here(x, t, cond), there(x.cuda(), t.cuda(), cond.to("cuda"))]
    torch.testing.assert_close(outs[1].cpu(), outs[0], **CLOSE)
    for out in outs:
        out.square().mean().backward()
    for key, grad in _gradients(here).items():
        torch.testing.assert_close(_gradients(there)[key], grad, msg=lambda m, k=key: f"{k}: {m}", **CLOSE)


@pytest.mark.parametrize("name", list(CASES))
def test_backbones_in_bfloat16(name: str) -> None:
    backbone = build(name).to("cuda")
    x, t = (v.cuda() for v in inputs(backbone))
    with torch.autocast("cuda", torch.bfloat16):
        out = backbone(x, t, conditioning(backbone).to("cuda"))
        out.float().square().mean().backward()
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in _gradients(backbone).values())


@pytest.mark.filterwarnings("default")  # the compiler's own
@pytest.mark.parametrize("name", ["dit", "DAU1d", "unet"])
def test_compiled_backbones(name: str) -> None:
    backbone = build(name).to("cuda")
    x, t = (v.cuda() for v in inputs(backbone))
    cond = conditioning(backbone).to("cuda")
    plain = backbone(x, t, cond)
    backbone.compile()
    torch.testing.assert_close(backbone(x, t, cond), plain, **CLOSE)


@pytest.mark.parametrize("name", list(tiny.CONDITIONERS))
def test_conditioners(name: str) -> None:
    torch.manual_seed(0)
    here = CONDITIONERS[name](output_dim=4, **tiny.CONDITIONERS[name])
    there = copy.deepcopy(here).to("cuda")
    values = tiny.CONDITIONER_VALUES[name]
    for found, expected in zip(there(values, "cuda"), here(values, "cpu")):
        assert found.device.type == "cuda"
        torch.testing.assert_close(found.cpu(), expected, **CLOSE)


@pytest.mark.parametrize("name", ["oobleck", "dac", "taae", "same", "seanet"])
def test_autoencoders(name: str) -> None:
    config: dict[str, Any] = {
        "model_type": "autoencoder",
        "sample_rate": 8000,
        "sample_size": 1024,
        "audio_channels": 2,
        "model": {
            "encoder": {"type": name, "config": tiny.ENCODERS[name]},
            "decoder": {"type": name, "config": tiny.DECODERS[name]},
            "latent_dim": 4,
            "downsampling_ratio": 8,
            "io_channels": 2,
        },
    }
    torch.manual_seed(0)
    here = create_model_from_config(load_config(config)).eval()
    there = copy.deepcopy(here).to("cuda")
    audio = torch.randn(2, 2, 1024, generator=torch.Generator().manual_seed(1)) * 0.1
    with torch.no_grad():
        latents = here.encode(audio)
        torch.testing.assert_close(there.encode(audio.cuda()).cpu(), latents, **CLOSE)
        torch.testing.assert_close(there.decode(latents.cuda()).cpu(), here.decode(latents), **CLOSE)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_a_seed_gives_the_same_sound_everywhere(sampler: str) -> None:
    torch.manual_seed(0)
    here = create_model_from_config(load_config(tiny_config())).eval()
    there = copy.deepcopy(here).to("cuda")
    items = [{"seconds_start": 0, "seconds_total": n} for n in (1, 2)]
    sounds = [generate(m, items, seeds=3, steps=6, sampler=sampler, cfg_scale=2.0) for m in (here, there)]
    torch.testing.assert_close(sounds[1], sounds[0], atol=2e-3, rtol=2e-2)
