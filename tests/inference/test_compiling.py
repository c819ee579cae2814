"""Compiled backbones give the same sound, and are compiled once for each shape."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.cli import main
from stable_audio.inference.generation.generate import generate
from stable_audio.inference.memory.generation import plan_generation
from stable_audio.inference.memory.loaded import shapes_of
from stable_audio.inference.precision import place
from stable_audio.model import DiffusionModel
from stable_audio.nn.copying import is_compiled
from tests.graphs import graph_sizes
from tests.inference import tiny
from tests.inference.test_adapters import adapter_at
from tests.inference.test_adapters import command as command


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Sizes of the graphs compiled from here on, each of a whole network, by one that changes nothing."""
    yield from graph_sizes(monkeypatch, fullgraph=True)


def model_of(*, compiled: bool) -> DiffusionModel:
    return place(tiny.build(tiny.config()), dtype="float32", device="cpu", compiled=compiled)


def rendered(model: DiffusionModel, prompt: str = "bell", count: int = 1, **settings: Any) -> Tensor:
    settings = {"seeds": 1, "steps": 2, "cfg_scale": 3.0, **settings}
    return generate(model, [{"prompt": prompt, "seconds_total": 0.5}] * count, **settings)


def test_prompts_seeds_scales_and_steps_compile_nothing_anew(graphs: list[int]) -> None:
    model = model_of(compiled=True)
    assert torch.equal(rendered(model), rendered(model_of(compiled=False)))
    assert len(graphs) == 1
    same: list[dict[str, Any]] = [{"prompt": "wind"}, {"seeds": 9}, {"cfg_scale": 7.0}, {"steps": 5}]
    for settings in [*same, {"sampler": "dpmpp"}, {"scale_phi": 0.5}]:
        rendered(model, **settings)
    assert len(graphs) == 1


@pytest.mark.slow
def test_batches_and_lengths_compile_once_for_all(graphs: list[int]) -> None:
    model = model_of(compiled=True)
    rendered(model)
    for count in (2, 3, 5):
        rendered(model, count=count)
    batches = len(graphs)
    assert batches <= 3  # one clip, two, any number
    for size in (320, 480, 160):
        rendered(model, count=2, sample_size=size)
    assert len(graphs) <= batches + 1


@pytest.mark.slow
def test_adapters_of_a_compiled_model_are_compiled_and_heard(tmp_path: Path, graphs: list[int]) -> None:
    adapter = adapter_at(tmp_path / "adapter.safetensors")
    compiled, plain = model_of(compiled=True), model_of(compiled=False)
    base = rendered(compiled)
    changed = rendered(compiled, adapters=[str(adapter)])
    assert len(graphs) == 2
    assert torch.equal(changed, rendered(plain, adapters=[str(adapter)]))
    assert not torch.equal(changed, base)


def test_a_compiled_model_is_planned_by_the_layers_of_its_copy(graphs: list[int]) -> None:
    model = model_of(compiled=True)
    copy = shapes_of(model)
    assert is_compiled(model.backbone)
    assert not is_compiled(copy.backbone)
    plan = plan_generation(copy, seconds=0.5, device="cpu")
    plain = plan_generation(shapes_of(model_of(compiled=False)), seconds=0.5, device="cpu")
    assert plan.total() == plain.total()
    assert graphs == []


def test_the_flag_compiles(command: list[str], tmp_path: Path, graphs: list[int]) -> None:
    assert main([*command, "--prompt", "bell", "--out", str(tmp_path / "out"), "--compile"]) == 0
    assert len(graphs) >= 1


def test_int8_is_not_compiled(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--prompt", "bell", "--out", str(tmp_path / "out"), "--dtype", "int8", "--compile"]
    assert main([*command, *arguments]) != 0
    assert "leave out int8, or compiling (--compile)" in capsys.readouterr().err
