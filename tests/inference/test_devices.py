"""Which device is taken."""

from __future__ import annotations

import importlib.util
import shutil

import pytest
import torch

from stable_audio.inference import precision
from stable_audio.inference.devices import best_device
from stable_audio.inference.precision import compiling_pays, dtype_for
from stable_audio.inference.rendering import request
from stable_audio.inference.rendering.jobs import Job
from tests.inference import tiny


@pytest.mark.parametrize(("gpus", "mps", "best"), [(2, False, "cuda"), (0, True, "mps"), (0, False, "cpu")])
def test_the_best_device_there_is(monkeypatch: pytest.MonkeyPatch, gpus: int, mps: bool, best: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert best_device() == torch.device(best)
    assert best_device("cpu", rank=1) == torch.device("cpu")


def test_processes_of_a_machine_share_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [best_device(rank=r).index for r in range(4)] == [0, 1, 0, 1]
    assert best_device("cuda", rank=3) == torch.device("cuda:1")
    assert best_device("cuda:0", rank=3) == torch.device("cuda:0")


@pytest.mark.parametrize("name", ["gpu", "cuda:7", "mps"])
def test_an_absent_device_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"device.*{name}"):
        best_device(name)


@pytest.mark.parametrize(("has_bfloat16", "name"), [(True, "bfloat16"), (False, "float16")])
def test_auto_is_half_precision_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool, name: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    assert dtype_for("auto", "cuda:1") == name
    assert dtype_for("auto", "mps") == "float32"
    assert dtype_for("float32", "cuda") == "float32"


@pytest.mark.parametrize(("gain", "name"), [(1.7, "bfloat16"), (1.5, "float32")])
def test_auto_is_measured_on_a_cpu(monkeypatch: pytest.MonkeyPatch, gain: float, name: str) -> None:
    monkeypatch.setattr(precision, "bfloat16_gain", lambda device, training: gain)
    assert dtype_for("auto", "cpu") == name
    assert dtype_for("float32", "cpu") == "float32"


def test_what_int4_leaves_is_not_decided_by_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchao")
    monkeypatch.setattr(precision, "bfloat16_gain", lambda *_, **__: 3.0)
    model = precision.place(tiny.build(tiny.config()), dtype="int4", device="cpu")
    floating = {p.dtype for p in model.backbone.parameters() if p.is_floating_point()}
    assert floating == {torch.float32}


def test_many_clips_on_a_gpu_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "triton" or None)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/gcc" if name == "gcc" else None)
    assert compiling_pays("cuda", clips=100, dtype="bfloat16")
    assert not compiling_pays("cuda", clips=99, dtype="bfloat16")
    assert not compiling_pays("cuda", clips=100, dtype="int8")
    assert not compiling_pays("cpu", clips=1000, dtype="float32")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "which", lambda name: None)
        assert not compiling_pays("cuda", clips=100, dtype="bfloat16")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not compiling_pays("cuda", clips=100, dtype="bfloat16")


def test_a_request_says_what_it_asks_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        request, "load_render_model", lambda *_, **how: asked.append((how["dtype"], how["compiled"]))
    )
    monkeypatch.setattr(request, "compiling_pays", lambda device, clips, dtype: clips > 1)
    for jobs, compiled in ((1, None), (2, None), (2, False), (1, True)):
        clips = [Job({"prompt": "bell"})] * jobs
        request.RenderRequest(checkpoint="model", jobs=clips, compiled=compiled).load("cpu")
    assert asked == [("float32", False), ("float32", True), ("float32", False), ("float32", True)]
