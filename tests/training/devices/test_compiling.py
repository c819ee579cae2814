"""`--compile` compiles what training runs, of every kind of model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.nn.compiling import runs_compiled
from stable_audio.training.devices.compiling import compile_networks
from stable_audio.training.errors import TrainingError
from tests.graphs import graph_sizes
from tests.training.autoencoder.test_autoencoder import AUDIO, module_of
from tests.training.autoencoder.test_autoencoder import tiny_config as tiny_autoencoder
from tests.training.autoencoder.test_diffusion_autoencoder import tiny_config as tiny_diffusion_autoencoder
from tests.training.building import tiny_config, tiny_run

pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # dynamo's


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Sizes of the graphs that are compiled from here on, by a compiler that changes nothing."""
    yield from graph_sizes(monkeypatch)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (tiny_config(), ["backbone"]),
        (tiny_autoencoder(), ["encoder", "decoder"]),
        (tiny_diffusion_autoencoder(), ["backbone", "encoder"]),
    ],
    ids=["diffusion", "autoencoder", "diffusion autoencoder"],
)
def test_what_is_compiled(config: dict[str, Any], names: list[str]) -> None:
    model = create_model_from_config(load_config(config))
    assert compile_networks(model) == names
    assert all(runs_compiled(model.get_submodule(name)) for name in names)
    # Checkpoints do not see it.
    assert not [key for key in model.state_dict() if "_orig_mod" in key]


def test_a_model_without_networks_is_refused() -> None:
    with pytest.raises(TrainingError, match="--compile: Linear has none of the networks"):
        compile_networks(nn.Linear(1, 1))


@pytest.mark.slow
def test_training_an_autoencoder_runs_compiled_networks(graphs: list[int]) -> None:
    plain, compiled = module_of(tiny_autoencoder()), module_of(tiny_autoencoder())
    compile_networks(compiled.model)
    losses = [m.generator_step(AUDIO, 0, noise=torch.zeros_like) for m in (plain, compiled)]
    assert len(graphs) >= 2
    assert sum(graphs) > 20
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
    for loss in losses:
        loss.backward()
    for a, b in zip(plain.model.parameters(), compiled.model.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None and b.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-6)


def test_a_run_with_the_flag_compiles(tmp_path: Path, graphs: list[int]) -> None:
    assert tiny_run(tmp_path, tiny_config(), max_steps=1, compile=True).start() == 0
    assert sum(graphs) > 20
