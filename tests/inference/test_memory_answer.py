"""Generation whose memory runs out says what took how much, and what fits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio import generate
from stable_audio.adapters import Adapter, AdapterSettings, AdapterUse, with_adapters
from stable_audio.adapters.stack import AdapterStack
from stable_audio.cli import main
from stable_audio.factory import create_model_from_config
from stable_audio.inference.memory import answer, reserve
from stable_audio.inference.memory.answer import Rendering
from stable_audio.inference.memory.errors import OutOfMemory
from stable_audio.inference.memory.generation import plan_generation
from stable_audio.inference.memory.loaded import shapes_of
from stable_audio.inference.memory.reserve import readable_size
from stable_audio.inference.rendering import load as load_module
from stable_audio.model import DiffusionModel
from tests.config import examples
from tests.inference import tiny

MEMORY_ERRORS: dict[str, Exception] = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    "python": MemoryError(),
}
SAMPLE = "stable_audio.inference.generation.clips.sample"


def _fails(error: Exception) -> Any:
    def fails(*_: Any, **__: Any) -> Any:
        raise error

    return fails


@pytest.fixture(scope="module")
def model() -> DiffusionModel:
    built = create_model_from_config(examples.cond())
    assert isinstance(built, DiffusionModel)
    return built


def _message(model: DiffusionModel, clips: int = 1, **settings: Any) -> str:
    with pytest.raises(OutOfMemory) as caught:
        generate(model, ["a bell"] * clips, steps=1, cfg_scale=3, **settings)
    return str(caught.value)


@pytest.mark.parametrize("kind", MEMORY_ERRORS)
def test_generation_answers(kind: str, model: DiffusionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SAMPLE, _fails(MEMORY_ERRORS[kind]))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.train().modules()]
    assert any(modes)
    message = _message(model, 4)
    assert message.startswith("out of memory while generating: 4 clips at once of 0.064 s take about ")
    for part in ("backbone", "autoencoder", "encoders", "sampling", "decoding", "libraries"):
        assert part in message
    assert "the cheapest change that fits is --batch-size 2 (batch_size=2), about " in message
    assert "\n" not in message
    # The plan used copies.
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_other_errors_stay_what_they_are(model: DiffusionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SAMPLE, _fails(RuntimeError("mat1 and mat2 shapes cannot be multiplied")))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        generate(model, ["a bell"], steps=1)


def _others(model: DiffusionModel, rendering: Rendering) -> Iterator[tuple[str, Rendering]]:
    for other in answer._others(model, rendering):
        yield " and ".join(answer._changes(rendering, other)), other


@pytest.mark.slow
def test_what_is_proposed_fits_and_all_that_is_cheaper_does_not(model: DiffusionModel) -> None:
    """For every room that one of the ways needs: by plans of the same settings, made apart."""
    rendering = Rendering(device="cuda", batch_size=2, seconds=0.064)
    ways = dict(_others(model, rendering))
    plans = {
        (dtype, batch): plan_generation(
            create_model_from_config(examples.cond(), device="meta"),  # type: ignore[arg-type]
            batch_size=batch,
            seconds=rendering.seconds,
            dtype=dtype,
        )
        for dtype in (None, "float16")
        for batch in (1, 2)
    }
    needs = {
        words: plans[way.dtype, way.batch_size].total(offload=way.offload, chunked=way.chunked)
        for words, way in ways.items()
    }
    assert len(needs) == 2 * 2 * 2 * 2 - 1
    for room in (sorted(needs.values())[len(needs) // 2], min(needs.values())):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(answer, "memory_of", lambda device, room=room: room)
            patch.setattr(reserve, "TIGHTER", 1.0)
            message = answer._answer(model, rendering, "2 clips")
        first = next(words for words, need in needs.items() if need <= room)
        assert f"the cheapest change that fits is {first}, about {readable_size(needs[first])}" in message
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answer, "memory_of", lambda device: min(needs.values()) - 1)
        assert "no setting makes it fit: render shorter clips" in answer._answer(model, rendering, "2 clips")


def test_a_loaded_model_is_planned_as_one_that_has_no_weights(model: DiffusionModel) -> None:
    loaded = plan_generation(shapes_of(model), dtype="bfloat16", batch_size=2)
    blank = plan_generation(
        create_model_from_config(examples.cond(), device="meta"),  # type: ignore[arg-type]
        dtype="bfloat16",
        batch_size=2,
    )
    assert loaded == blank
    assert plan_generation(shapes_of(model), dtype=None).weights["backbone"] == sum(
        t.nbytes for t in (*model.backbone.parameters(), *model.backbone.buffers())
    )


def test_adapters_may_go_without_stored_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.config()
    config["model"]["diffusion"]["config"]["embed_dim"] = 256
    model = tiny.build(config)
    stack = AdapterStack(model.backbone)
    settings = AdapterSettings(rank=2, include=["layers"])
    adapter = Adapter(settings, _random(stack, settings))
    adapted = with_adapters(model, [AdapterUse(adapter=adapter)])
    stored, thin = (
        plan_generation(shapes_of(adapted, thin_adapters=t), dtype=None, decoded=False).work["backbone"]
        for t in (False, True)
    )
    changed = sum(stack.layers[name].weight.nbytes for name in adapter.layers)  # type: ignore[operator]
    assert stored - thin > 0.5 * changed
    monkeypatch.setattr(SAMPLE, _fails(MemoryError()))
    assert "--thin-adapters (thin_adapters=True)" in _message(adapted)
    assert "thin" not in _message(with_adapters(model, [AdapterUse(adapter=adapter)], thin=True))


def _random(stack: AdapterStack, settings: AdapterSettings) -> Any:
    index = stack.add(settings)
    tensors = stack.adapter(index).layers
    stack.remove(index)
    return {n: {k: torch.randn_like(v) for k, v in each.items()} for n, each in tensors.items()}


def test_the_command_says_it_where_one_clip_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, model_file = tiny.save(tmp_path, tiny.config())
    command = ["generate", "--ckpt-path", str(weights), "--model-config", str(model_file)]
    command += ["--prompt", "bell", "--steps", "1", "--out", str(tmp_path / "out"), "--device", "cpu"]
    command += ["--batch-size", "2", "--count", "2"]
    monkeypatch.setattr(SAMPLE, _fails(MEMORY_ERRORS["cpu"]))
    assert main(command) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("error: out of memory while generating: 1 clip of 0.64 s takes about ")
    assert "--dtype bfloat16" in told[-1]
    assert not list((tmp_path / "out").glob("*.wav"))
    # The weights themselves may not fit.
    monkeypatch.setattr(load_module, "place", _fails(MEMORY_ERRORS["cuda"]))
    assert main(command) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("error: out of memory while loading the model: 1 clip of 0.64 s takes about ")


def test_a_plan_that_fails_does_not_hide_the_reason(
    model: DiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SAMPLE, _fails(MEMORY_ERRORS["cuda"]))
    monkeypatch.setattr(answer, "_answer", _fails(RuntimeError("no plan")))
    assert "Tried to allocate 2.00 GiB.; a smaller --batch-size" in _message(model)
