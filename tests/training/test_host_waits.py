"""A training step queues all of its work on the GPU without once waiting for it.

No GPU is needed: the step runs on the meta device, whose tensors have no values, and everything that would
make the host wait for a real device is refused.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import SGD, AdamW

from stable_audio.config import load_config
from stable_audio.data.base import Batch, Packed
from stable_audio.factory import create_model_from_config
from stable_audio.nn.transfer import to_device
from stable_audio.optim.step_limits import StepLimits
from stable_audio.pretransforms.bottlenecks import base as bottlenecks
from stable_audio.training.batches.draws import StepDraws
from stable_audio.training.build import build_training
from stable_audio.training.diffusion.module import DiffusionTraining
from stable_audio.training.guards import finite
from stable_audio.training.guards.finite import FiniteGuard
from tests.host_waits import DEVICE, HostWaits, no_waits
from tests.training.building import tiny_config


class DeviceDraws(StepDraws):
    """The draws of a step with noise that needs no generator on the device, which only a real GPU has."""

    def _normal(self, purpose: str, like: Tensor, first: int, lengths: Any = None) -> Tensor:
        return torch.zeros_like(like)


def _module(**training: Any) -> DiffusionTraining:
    config = load_config(_config(**training))
    module = build_training(config, create_model_from_config(config), batch_size=2)
    assert isinstance(module, DiffusionTraining)
    return module


def _config(**training: Any) -> dict[str, Any]:
    config = tiny_config(**training)
    conditioning = config["model"]["conditioning"]
    conditioning["configs"] += [
        {"id": "kind", "type": "list", "config": {"options": ["bell", "drum"]}},
        {"id": "count", "type": "int", "config": {"max_val": 9}},
        {
            "id": "prompt",
            "type": "clip_text",
            "config": {"width": 8, "layers": 1, "heads": 2, "max_length": 6},
        },
    ]
    config["model"]["diffusion"]["cross_attention_cond_ids"] = ["kind", "count", "prompt"]
    config["model"]["diffusion"]["config"]["cond_token_dim"] = conditioning["cond_dim"]
    return config


def _batch(packed: bool = False) -> Batch:
    mask = torch.ones(1024)
    mask[512:] = 0
    words = {"kind": "bell", "count": 3, "prompt": "a bell", "seconds_start": 0, "seconds_total": 2}
    items = [{**words, "padding_mask": mask} for _ in range(2)]
    return Batch(torch.zeros(2, 32, 32), items, Packed([16, 32], 0, 2) if packed else None)


def _draws(module: DiffusionTraining, packed: Packed | None = None) -> StepDraws:
    return DeviceDraws(
        timesteps=module.timesteps, seed=0, position=0, rank=0, world_size=1, batch_size=2, packed=packed
    )


@pytest.mark.parametrize("packed", [False, True])
def test_a_step_does_not_wait_for_the_device(packed: bool) -> None:
    options = {"cfg_dropout_prob": 0.5, "log_loss_info": True, "mask_padding": True}
    module = _module(pre_encoded=True, encode_ahead=True, **options)
    module.to(DEVICE)
    module.encode_ahead(_batch)
    with no_waits():
        batch = module.transfer_batch_to_device(_batch(packed), DEVICE, 0)
        loss = module.training_step(batch, 0, _draws(module, batch.packed))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        module.record({"train/grad_norm": norm})
    assert loss.device == DEVICE
    assert "train/std_data" in module.window.means()


def test_inpainting_masks_do_not_wait_for_the_device() -> None:
    config = _config(pre_encoded=True)
    config["model_type"] = "diffusion_cond_inpaint"
    config["model"]["diffusion"]["input_concat_ids"] = ["inpaint_mask", "inpaint_masked_input"]
    config["model"]["diffusion"]["config"]["input_concat_dim"] = 33
    loaded = load_config(config)
    module = build_training(loaded, create_model_from_config(loaded), batch_size=2).to(DEVICE)
    with no_waits():
        batch = module.transfer_batch_to_device(_batch(), DEVICE, 0)
        assert module.training_step(batch, 0, _draws(module)).device == DEVICE


def test_the_refusal_sees_every_kind_of_wait() -> None:
    x = torch.ones(3, device=DEVICE)
    waits = {
        "copy": lambda: torch.ones(3).to(DEVICE),
        "_local_scalar_dense": lambda: bool(x.sum() > 0),
        "nonzero": lambda: x.nonzero(),
        "tensor on the device": lambda: torch.tensor([1.0], device=DEVICE),
        "new_tensor": lambda: x.new_tensor(1.0),
    }
    with no_waits():
        assert to_device(torch.ones(3), DEVICE).device == DEVICE
        for name, wait in waits.items():
            with pytest.raises(HostWaits, match=name):
                wait()


@pytest.fixture
def skipping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat the fused optimizers of the CPU as those of a GPU are treated."""
    monkeypatch.setattr(
        finite, "skips_by_itself", lambda optimizer, norm: hasattr(optimizer, "_step_supports_amp_scaling")
    )


def _step(guard: FiniteGuard, optimizer: Any, weight: Tensor, grad: float, step: int) -> Any:
    weight.grad = torch.full_like(weight, grad)
    norm = weight.grad.norm()
    verdict = guard.watch(optimizer, norm, None, step=step, files=[f"{step}.wav"])
    optimizer.step()
    return verdict


@pytest.mark.usefixtures("skipping")
def test_checking_a_step_and_the_spikes_in_it_does_not_wait_for_the_device() -> None:
    guard = FiniteGuard(StepLimits())
    norm, optimizer = torch.ones((), device=DEVICE), AdamW([torch.nn.Parameter(torch.ones(1))], fused=True)
    with no_waits():
        for step in range(12):
            guard._pending = None  # that of the last step has arrived by now
            agree = (lambda flag: flag * 1) if step % 2 else None
            guard.watch(optimizer, norm, norm, step=step, files=["a"], agree=agree)


def test_the_check_of_a_step_whose_gradients_are_in_host_memory_is_made_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with --cpu-offload: the loss is on the GPU."""
    read: list[Tensor] = []

    class Read:
        def __init__(self, tensor: Tensor) -> None:
            read.append(tensor)

        def values(self) -> list[float]:
            return [1.0] * 6

    monkeypatch.setattr(finite, "_result", lambda check: None)
    monkeypatch.setattr(finite, "Readback", Read)
    with FakeTensorMode():
        norm, loss = torch.ones(()), torch.ones((), device="cuda")
        FiniteGuard(StepLimits()).watch(None, norm, loss, step=0, files=[], loss_limit=5.0)
    assert read[0].device == torch.device("cpu")


def test_the_spread_over_processes_is_counted_without_a_copy_to_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bottlenecks, "is_distributed", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda value: None)
    x = torch.randn(3, 5)
    torch.testing.assert_close(bottlenecks.std_over_processes(x), x.std())
    with no_waits():
        bottlenecks.std_over_processes(torch.ones(3, 5, device=DEVICE))


@pytest.mark.usefixtures("skipping")
def test_a_loss_that_explodes_is_told_without_waiting_for_the_device() -> None:
    weight, guard = torch.nn.Parameter(torch.ones(4)), FiniteGuard(StepLimits())
    optimizer, loss = AdamW([weight], lr=0.1, fused=True), torch.ones((), device=DEVICE)
    with no_waits():
        for step in range(3):
            guard._pending = None  # that of the last step has arrived by now
            guard.watch(optimizer, loss, loss, step=step, files=[], loss_limit=5.0)
    guard, verdicts = FiniteGuard(StepLimits()), []
    for step, size in enumerate([4.0, -6.0, float("nan"), 5.0]):
        weight.grad, before = torch.ones(4), weight.detach().clone()
        loss = torch.tensor(size)
        verdicts.append(guard.watch(optimizer, torch.tensor(2.0), loss, step=step, files=[], loss_limit=5.0))
        optimizer.step()
        assert torch.equal(weight, before) is (step in (1, 2))
    assert verdicts[:2] == [None, None]
    assert [(v.step, v.what) for v in verdicts[2:]] == [(1, "loss"), (2, "loss")]
    assert verdicts[2].reason == "loss has exploded: it is 6, above the limit of 5,"
    assert verdicts[3].reason == "loss is not finite"
    assert guard.settle() is None


@pytest.mark.usefixtures("skipping")
def test_a_bad_step_leaves_weights_and_averages_alone_and_is_told_one_step_later() -> None:
    def run(grads: list[float]) -> tuple[Tensor, Any, list[Any], FiniteGuard]:
        weight = torch.nn.Parameter(torch.ones(4))
        optimizer, guard = AdamW([weight], lr=0.1, fused=True), FiniteGuard()
        return weight, optimizer, [_step(guard, optimizer, weight, g, i) for i, g in enumerate(grads)], guard

    clean, clean_optimizer, _, _ = run([1.0, 0.5])
    weight, optimizer, verdicts, guard = run([1.0, float("nan"), 0.5])
    assert torch.equal(weight, clean)
    for name, value in optimizer.state[weight].items():
        assert torch.equal(value, clean_optimizer.state[clean][name])
    assert verdicts[:2] == [None, None]
    assert (verdicts[2].step, verdicts[2].files, verdicts[2].what) == (1, ("1.wav",), "gradient")
    assert guard.settle() is None


@pytest.mark.usefixtures("skipping")
def test_the_last_step_is_judged_before_anything_is_saved() -> None:
    weight, guard = torch.nn.Parameter(torch.ones(4)), FiniteGuard()
    assert _step(guard, AdamW([weight], fused=True), weight, float("inf"), 7) is None
    bad = guard.settle()
    assert bad is not None
    assert bad.step == 7
    assert torch.equal(weight, torch.ones(4))


def test_other_optimizers_are_stopped_before_they_step() -> None:
    weight, guard = torch.nn.Parameter(torch.ones(4)), FiniteGuard()
    weight.grad = torch.full_like(weight, float("nan"))
    bad = guard.watch(SGD([weight], lr=1.0), weight.grad.norm(), torch.tensor(1.0), step=3, files=[])
    assert bad is not None
    assert (bad.step, bad.what) == (3, "gradient")
    lost = guard.watch(SGD([weight]), weight.grad.norm(), torch.tensor(float("nan")), step=4, files=[])
    assert lost is not None
    assert lost.what == "loss"
