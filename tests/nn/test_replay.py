"""Replayed calls give what calls give, whatever changes between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stable_audio.backbones import DiT
from stable_audio.nn.replay import MOST_RECORDINGS, RecordedCalls
from stable_audio.types import Conditioning


class Recorder:
    """In place of CUDA graphs: work that reads and writes the tensors of its recording alone."""

    def __init__(self) -> None:
        self.recorded = 0
        self.replayed = 0

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        output = run()
        self.recorded += 1

        def again() -> None:
            self.replayed += 1
            output.copy_(run())

        return again, output


@pytest.fixture
def dit() -> DiT:
    torch.manual_seed(0)
    dit = DiT(
        io_channels=2,
        embed_dim=32,
        depth=2,
        num_heads=1,
        cond_token_dim=8,
        local_add_cond_dim=3,
        global_cond_type="adaLN",
        zero_init_branch_outputs=False,
    )
    return dit.eval().requires_grad_(False)


def inputs(dit: DiT, seed: int, frames: int = 6, batch: int = 2) -> tuple[Tensor, Tensor, Conditioning]:
    draw = torch.Generator().manual_seed(seed)
    cond = Conditioning(
        cross_attn=torch.randn(batch, 3, 8, generator=draw),
        local_add=torch.randn(batch, 3, 6, generator=draw),
    )
    x = torch.randn(batch, 2, frames, generator=draw)
    return x, torch.rand(batch, generator=draw), dit.prepare(cond)


def recorded(dit: DiT, recorder: Recorder) -> RecordedCalls:
    return RecordedCalls(dit._call_impl, dit, capture=recorder, records=lambda x: True)


@torch.no_grad()
def test_every_call_has_its_own_values(dit: DiT) -> None:
    recorder = Recorder()
    calls = recorded(dit, recorder)
    outputs, expected = [], []
    for seed in (1, 2, 3):  # other conditioning
        x, t, cond = inputs(dit, seed)
        for step in range(3):  # other x and t, the same conditioning
            outputs.append(calls(x + step, t / (1 + step), cond))
            expected.append(dit(x + step, t / (1 + step), cond))
    assert recorder.recorded == 1
    assert recorder.replayed == 8
    for found, right in zip(outputs, expected):  # earlier results are not overwritten by later calls
        torch.testing.assert_close(found, right)


@torch.no_grad()
def test_other_shapes_slots_and_options_are_other_recordings(dit: DiT) -> None:
    recorder = Recorder()
    calls = recorded(dit, recorder)
    x, t, cond = inputs(dit, 1)
    padded = cond.replace(padding_mask=torch.ones(2, 6, dtype=torch.bool), prepared=cond.prepared)
    without = dit.prepare(cond.replace(local_add=None))
    cases = [(x, t, cond), inputs(dit, 1, frames=8), inputs(dit, 1, batch=1), (x, t, padded), (x, t, without)]
    for case in cases:
        for _ in range(2):
            torch.testing.assert_close(calls(*case), dit(*case))
    assert recorder.recorded == len(cases)


@torch.no_grad()
def test_weights_that_moved_are_recorded_again(dit: DiT) -> None:
    recorder = Recorder()
    calls = recorded(dit, recorder)
    case = inputs(dit, 1)
    calls(*case), calls(*case)
    weight = dit.transformer.project_in.weight
    weight.mul_(2)  # in place: a recording reads the weight where it is
    torch.testing.assert_close(calls(*case), dit(*case))
    assert recorder.recorded == 1
    earlier = []  # kept: the next weights might take their freed memory, for which there is a recording
    for replaced in (lambda: setattr(weight, "data", weight * 2), lambda: assign(dit, weight * 2)):
        earlier.append(weight.data)
        replaced()
        calls(*case)
        torch.testing.assert_close(calls(*case), dit(*case))
    assert recorder.recorded == 3


@torch.no_grad()
def test_calls_under_autocast_are_other_recordings(dit: DiT) -> None:
    recorder = Recorder()
    calls = recorded(dit, recorder)
    case = inputs(dit, 1)
    for enabled in (False, True, False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            torch.testing.assert_close(calls(*case), dit(*case), rtol=0, atol=0)
    assert recorder.recorded == 2


def assign(dit: DiT, weight: Tensor) -> None:
    dit.transformer.project_in.weight = nn.Parameter(weight, requires_grad=False)


@torch.no_grad()
def test_recordings_that_are_not_used_are_let_go(dit: DiT) -> None:
    recorder = Recorder()
    calls = recorded(dit, recorder)
    for frames in range(1, MOST_RECORDINGS + 3):
        case = inputs(dit, 1, frames)
        calls(*case), calls(*case)
    assert len(calls._recordings) == MOST_RECORDINGS


def test_gradients_are_never_recorded(dit: DiT) -> None:
    recorder = Recorder()
    calls = recorded(dit, recorder)
    x, t, cond = inputs(dit, 1)
    for _ in range(3):
        x.requires_grad_()
        calls(x, t, cond).sum().backward()
    assert x.grad is not None
    assert recorder.recorded == 0


@torch.no_grad()
def test_what_cannot_be_recorded_is_called(dit: DiT, caplog: pytest.LogCaptureFixture) -> None:
    tries: list[int] = []

    def refuses(run: Any) -> Any:
        tries.append(1)
        raise RuntimeError("operation not permitted when stream is capturing")

    calls = RecordedCalls(dit._call_impl, dit, capture=refuses, records=lambda x: True)
    case = inputs(dit, 1)
    for _ in range(4):
        torch.testing.assert_close(calls(*case), dit(*case))
    assert len(tries) == 1
    assert "made one by one" in caplog.text


def test_only_calls_on_a_gpu_are_recorded() -> None:
    layer = nn.Identity()
    calls = RecordedCalls(layer._call_impl, layer)
    with torch.no_grad():
        x = torch.ones(2)
        assert calls(x) is calls(x) is calls(x)
