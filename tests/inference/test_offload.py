"""Parts of a model that come to a device in turn. A second set of weights on the CPU plays the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stable_audio.adapters import AdapterSettings, AdapterStack
from stable_audio.cli import main
from stable_audio.conditioning.base import Conditioner
from stable_audio.conditioning.multi import MultiConditioner
from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.inference import offload as offloading
from stable_audio.inference.generation.generate import generate
from stable_audio.inference.offload import offload, visiting
from stable_audio.inference.precision import place
from stable_audio.model import DiffusionModel
from tests.inference import tiny
from tests.training.building import latent_config

Home = dict[str, tuple[nn.Parameter, int]]
PARTS = ("conditioner", "backbone", "pretransform")
PROMPT = [{"seconds_start": 0, "seconds_total": 1}, {"seconds_start": 0, "seconds_total": 2}]


@pytest.fixture
def model() -> DiffusionModel:
    torch.manual_seed(0)
    return create_model_from_config(load_config(latent_config())).eval()


@pytest.fixture
def at_rest(model: DiffusionModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """Places in memory of the weights of an offloaded model, which are the same afterwards."""
    home = {k: (p, p.data_ptr()) for k, p in model.named_parameters()}
    monkeypatch.setattr(offloading, "_is_there", lambda tensor, device: False)
    monkeypatch.setattr(offloading, "_brought", lambda tensor, device: tensor.clone())
    yield home
    assert all(p.data_ptr() == place for p, place in home.values())


def _away(home: Home) -> set[str]:
    """Parts whose weights are on the device; all of a part's weights are, or none."""
    places = {k: p.data_ptr() != place for k, (p, place) in home.items()}
    parts = {part: {away for k, away in places.items() if k.startswith(f"{part}.")} for part in PARTS}
    assert all(len(p) == 1 for p in parts.values()), parts
    return {part for part, places in parts.items() if True in places}


def _watch(model: DiffusionModel, home: Home, monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """What is on the device whenever a part computes."""
    seen: list[set[str]] = []

    def watched(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            seen.append(_away(home))
            return method(*args, **options)

        return call

    pretransform, conditioner = model.pretransform, model.conditioner
    assert pretransform is not None
    assert conditioner is not None
    for owner, name in (
        (conditioner, "forward"),
        (model.backbone, "forward"),
        (pretransform, "decode"),
        (pretransform, "encode"),
    ):
        monkeypatch.setattr(owner, name, watched(getattr(owner, name)))
    return seen


def test_each_part_is_on_the_device_only_while_it_computes(
    model: DiffusionModel, at_rest: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"steps": 2, "cfg_scale": 2.0, "batch_size": 1}
    settings |= {"init_audio": torch.randn(2, 512), "init_noise_level": 0.9}
    expected = generate(model, PROMPT, **settings)
    model.computes_on = torch.device("cpu")
    seen = _watch(model, at_rest, monkeypatch)
    assert torch.equal(generate(model, PROMPT, **settings), expected)
    order = [part for i, (part,) in enumerate(seen) if i == 0 or {part} != seen[i - 1]]
    assert order == ["pretransform", "conditioner", "backbone", "conditioner", "backbone", "pretransform"]
    assert _away(at_rest) == set()


def test_weights_that_adapters_have_computed_leave_the_device(model: DiffusionModel, at_rest: Home) -> None:
    stack = AdapterStack(model.backbone)
    stack.add(AdapterSettings(rank=2))
    expected = generate(model, PROMPT, steps=1)
    model.computes_on = torch.device("cpu")
    assert torch.equal(generate(model, PROMPT, steps=1), expected)
    assert not [m for m in model.modules() if "_effective" in m.__dict__]


def test_an_error_brings_the_weights_back(model: DiffusionModel, at_rest: Home) -> None:
    model.computes_on = torch.device("cpu")

    def fail() -> None:
        with visiting(model, model.backbone):
            assert _away(at_rest) == {"backbone"}
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert _away(at_rest) == set()


def test_frozen_encoders_follow_and_go_back(model: DiffusionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offloading, "_brought", lambda tensor, device: tensor)
    places: list[str] = []

    class Encoder(Conditioner):
        def followers(self) -> list[nn.Module]:
            return [nn.Linear(1, 1)]

        def follow(self, fn: Callable[[Tensor], Tensor]) -> None:
            places.append(fn(torch.empty(0)).device.type)

    model.conditioner = MultiConditioner({"text": Encoder(dim=1, output_dim=1)})
    model.computes_on = torch.device("meta")
    with visiting(model, model.conditioner):
        assert places == ["meta"]
    assert places == ["meta", "cpu"]


def test_the_model_says_where_it_computes(model: DiffusionModel) -> None:
    assert offload(model, "meta").device == torch.device("meta")
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_on_the_cpu_it_is_refused(
    model: DiffusionModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for dtype in ("float32", "int8"):
        with pytest.raises(ValueError, match="leave"):
            place(model, dtype=dtype, device="cpu", in_turn=True)
    weights, config = tiny.save(tmp_path, tiny.config())
    command = ["generate", "--ckpt-path", str(weights), "--model-config", str(config), "--prompt", "bell"]
    assert main([*command, "--device", "cpu", "--offload", "--out", str(tmp_path / "out")]) == 2
    assert "weights that rest in its memory save nothing" in capsys.readouterr().err
