"""Generation on a GPU: replayed calls, half precision, and decoding beside sampling give the same sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.audio.io import read_audio
from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.inference import Sampling
from stable_audio.inference.generation.generate import generate
from stable_audio.inference.precision import place
from stable_audio.inference.rendering.jobs import Job
from stable_audio.inference.rendering.render import OutputFiles
from stable_audio.inference.rendering.request import RenderRequest
from stable_audio.model import DiffusionModel
from stable_audio.nn.replay import RecordedCalls, replay
from tests.inference import tiny
from tests.training.building import tiny_config

ITEMS = [{"seconds_start": 0, "seconds_total": n} for n in (1, 2)]


def _model() -> DiffusionModel:
    torch.manual_seed(0)
    return create_model_from_config(load_config(tiny_config())).eval().to("cuda")


def _rendered(model: DiffusionModel, **settings: Any) -> torch.Tensor:
    return generate(model, ITEMS, **{"seeds": 3, "steps": 6, "cfg_scale": 2.0, **settings})


def test_replayed_calls_are_the_same() -> None:
    plain, replayed = _model(), _model()
    replay(replayed.backbone)
    calls = replayed.backbone._compiled_call_impl
    assert isinstance(calls, RecordedCalls)
    others: list[dict[str, Any]] = [{}, {"seeds": 9}, {"cfg_scale": 5.0}, {"cfg_scale": 1.0}, {"steps": 9}]
    for settings in [*others, {"sampler": "dpmpp"}, {"forecast_every": 2}, {}]:
        found, expected = _rendered(replayed, **settings), _rendered(plain, **settings)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    assert not calls._refused
    assert any(recording is not None for recording in calls._recordings.values())


@pytest.mark.filterwarnings("default")  # the compiler's own
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_compiled_and_replayed(dtype: str) -> None:
    plain, compiled = _model(), _model()
    place(plain, dtype=dtype, device="cuda")
    place(compiled, dtype=dtype, device="cuda", compiled=True)
    atol = 1e-3 if dtype == "float32" else 5e-2
    for seed in (1, 2):
        found, expected = _rendered(compiled, seeds=seed), _rendered(plain, seeds=seed)
        torch.testing.assert_close(found, expected, atol=atol, rtol=1e-2)
    assert not compiled.backbone._compiled_call_impl._refused  # type: ignore[union-attr]


def test_weights_that_leave_and_return_are_recorded_again() -> None:
    model = _model()
    replay(model.backbone)
    before = _rendered(model)
    model.to("cpu").to("cuda")
    torch.testing.assert_close(_rendered(model), before, atol=1e-4, rtol=1e-3)


def test_batches_are_decoded_beside_sampling(tmp_path: Path) -> None:
    weights, model_file = tiny.save(tmp_path / "model", tiny.config())
    jobs = [Job({"prompt": name}) for name in ("bell", "drum", "wind", "rain")]
    sounds = {}
    for device in ("cpu", "cuda"):
        request = RenderRequest(
            checkpoint=weights,
            config=str(model_file),
            jobs=jobs,
            seconds=0.1,
            dtype="float32",
            sampling=Sampling(steps=3),
        )
        folder = tmp_path / device
        task = request.task(request.load(device))
        list(task.render(OutputFiles(folder, subtype="FLOAT"), batch_size=1))
        sounds[device] = {path.name: read_audio(path)[0] for path in sorted(folder.glob("*.wav"))}
    assert list(sounds["cpu"]) == list(sounds["cuda"])
    for name, sound in sounds["cpu"].items():
        torch.testing.assert_close(sounds["cuda"][name], sound, atol=1e-3, rtol=1e-2)
