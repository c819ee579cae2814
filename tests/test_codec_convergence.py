"""examples/codec_convergence.py: what it compares is comparable, and its tables say what the runs logged."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.optim import build_scheduler

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location(
        "codec_convergence", ROOT / "examples" / "codec_convergence.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def config_of(script: Any, name: str) -> dict[str, Any]:
    run = script.RUNS[name]
    return run.change(json.loads((script.CONFIGS / run.config).read_text()))


def updates(config: dict[str, Any]) -> int:
    """Steps of the autoencoder itself."""
    training = config["training"]
    return training["max_steps"] // (2 if "discriminator" in training["loss_configs"] else 1)


def test_with_and_without_a_discriminator_differ_in_nothing_else(script: Any) -> None:
    plain, adversarial = config_of(script, "vae_longer"), config_of(script, "vae_adversarial")
    assert "discriminator" not in plain["training"]["loss_configs"]
    assert updates(plain) == updates(adversarial)
    assert plain["model"] == adversarial["model"] == config_of(script, "vae")["model"]
    own = [c["training"]["optimizer_configs"]["autoencoder"] for c in (plain, adversarial)]
    assert own[0] == own[1]
    assert "total_steps" not in own[0]["scheduler"]["config"], "the schedule follows the run"


def bits_per_frame(script: Any, name: str) -> list[float]:
    model: Any = create_model_from_config(load_config(config_of(script, name)))
    count, size = model.bottleneck.num_quantizers, model.bottleneck.codebook_size
    return [(count if kept is None else kept) * math.log2(size) for kept in script.RUNS[name].quantizers]


def test_twice_the_latents(script: Any) -> None:
    narrow, wide = (create_model_from_config(load_config(config_of(script, n))) for n in ("vae", "vae_wide"))
    assert (narrow.latent_dim, wide.latent_dim) == (32, 64)


def test_the_codecs_have_the_same_two_bitrates(script: Any) -> None:
    assert bits_per_frame(script, "rvq") == [90, 40]
    assert bits_per_frame(script, "fsq") + bits_per_frame(script, "fsq_low") == [90, 40]
    assert updates(config_of(script, "rvq")) == updates(config_of(script, "fsq"))


@pytest.mark.parametrize("name", ["rvq", "fsq", "fsq_low"])
def test_quantised_codecs_begin_with_all_of_the_vae_but_its_last_layer(script: Any, name: str) -> None:
    """Else `--partial` would leave out more than it says."""
    assert (script.RUNS[name].start, script.RUNS[name].partial) == ("vae", True)
    shapes = {}
    for key in ("vae", name):
        model = create_model_from_config(load_config(config_of(script, key)), device="meta")
        shapes[key] = {k: v.shape for k, v in model.state_dict().items() if not k.startswith("bottleneck.")}
    differing = {k.rsplit(".", 1)[0] for k in shapes["vae"] if shapes["vae"][k] != shapes[name].get(k)}
    assert differing == {"encoder.layers.3"}
    assert shapes["vae"].keys() == shapes[name].keys()


@pytest.mark.parametrize("divisor", [3, 400])
def test_shortened_schedules_last_as_long_as_the_run(script: Any, divisor: int) -> None:
    for name in script.RUNS:
        config = config_of(script, name)
        script.shorten(config, divisor)
        assert updates(config) >= 1
        scheduler = config["training"]["optimizer_configs"]["autoencoder"]["scheduler"]
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        made = build_scheduler(scheduler, optimizer, steps=updates(config))
        for _ in range(updates(config)):
            optimizer.step()
            made.step()


def test_tables(script: Any, tmp_path: Path) -> None:
    run = tmp_path / "vae"
    run.mkdir()
    header = "step,train/loss,val/sisdr,val/stft,val/mel"
    (run / "metrics.csv").write_text(f"{header}\n499,0.5,,,\n500,,2.5,3.25,4\n1000,,3,2,1\n")
    assert script.last_step(run) == 0, "a run without a file of weights has not ended"
    (run / "last.safetensors").touch()
    assert script.last_step(run) == 1000
    table = script.curve_table(["vae"], argparse.Namespace(out=tmp_path))
    assert table.splitlines()[2:] == [
        "| VAE | 500 | 2.50 | 3.25 | 4.00 |",
        "| VAE | 1000 | 3.00 | 2.00 | 1.00 |",
    ]
    script.draw(["vae"], tmp_path / "curves.png", tmp_path)
    assert (tmp_path / "curves.png").stat().st_size > 5000
