"""Several threads, one model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stable_audio.conditioning import MultiConditioner
from stable_audio.conditioning.pretrained.network import LazyNetwork
from stable_audio.conditioning.t5 import T5Conditioner
from stable_audio.inference import generate
from stable_audio.model import DiffusionModel
from tests.inference import tiny

BELL, DRUM = {"prompt": "bell", "seconds_total": 0.6}, {"prompt": "drum", "seconds_total": 0.3}
FEW: dict[str, Any] = {"steps": 3, "cfg_scale": 2.0}


@pytest.fixture
def model() -> DiffusionModel:
    return tiny.build(tiny.config())


def test_two_threads_generate_with_one_model(model: DiffusionModel) -> None:
    alone = [generate(model, [item], seeds=4, **FEW) for item in (BELL, DRUM)]
    both = threading.Barrier(2)

    def work(item: dict[str, Any]) -> Tensor:
        return generate(model, [item], seeds=4, callback=lambda _: both.wait(30) and None, **FEW)

    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(work, (BELL, DRUM)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together))


def test_the_thread_that_ends_first_leaves_eval_mode_to_the_other(model: DiffusionModel) -> None:
    model.train()
    modes = [m.training for m in model.modules()]
    entered, begun, ended = threading.Event(), threading.Event(), threading.Event()
    awake: list[bool] = []

    def slow_step(info: Any) -> None:
        begun.set()
        assert ended.wait(30)
        awake.append(any(m.training for m in model.modules()))

    def quick_step(info: Any) -> None:
        entered.set()
        assert begun.wait(30)

    def quick() -> None:
        generate(model, [DRUM], callback=quick_step, **FEW)
        ended.set()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(quick)
        assert entered.wait(30)
        slow = pool.submit(generate, model, [BELL], callback=slow_step, **FEW)
        first.result()
        slow.result()
    assert awake == [False] * 3
    assert [m.training for m in model.modules()] == modes


def test_generating_neither_moves_a_loaded_model_nor_sets_its_mode(
    model: DiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> Callable[..., Any]:
        def called(self: nn.Module, *_: Any, **__: Any) -> nn.Module:
            raise AssertionError(f"{name} of the shared {type(self).__name__}")

        return called

    model.eval()
    for name in ("_apply", "train", "requires_grad_"):
        monkeypatch.setattr(nn.Module, name, refuse(name))
    generate(model, [BELL], **FEW)


def test_conditioning_for_another_device_moves_the_result_and_not_the_weights(model: DiffusionModel) -> None:
    conditioner = model.conditioner
    assert conditioner is not None
    tensors = conditioner([BELL], "meta")
    assert {t.device.type for pair in tensors.values() for t in pair if t is not None} == {"meta"}
    assert {p.device.type for p in conditioner.parameters()} == {"cpu"}


def test_a_frozen_encoder_moves_with_its_conditioner_and_keeps_its_type() -> None:
    conditioner = T5Conditioner(output_dim=512, t5_model_name="t5-small")
    encoder = nn.Linear(2, 2).half()
    conditioner.network = LazyNetwork(
        load=lambda: encoder, identity=lambda: "a linear layer", count=lambda: 6, dtype=torch.float16
    )
    assert conditioner.encoder("cpu") is encoder
    MultiConditioner({"prompt": conditioner}).to(device="meta", dtype=torch.bfloat16)
    moved: Any = conditioner.encoder("cpu")
    assert moved.weight.device.type == "meta"
    assert moved.weight.dtype == torch.float16
    assert encoder.weight.device.type == "cpu"  # another model may use it there
    assert conditioner.device_or("cpu").type == "meta"
    assert not list(conditioner.parameters())
