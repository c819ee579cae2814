"""The type that a module computes in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from stable_audio.nn.precision import parameter_dtype


def _held_in_half() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2).half(), nn.BatchNorm1d(2), nn.Linear(2, 2).double())


CASES: dict[str, tuple[Callable[[], nn.Module], torch.dtype]] = {
    "frozen layers in less": (_held_in_half, torch.float32),
    "all in half": (lambda: nn.Sequential(nn.Linear(2, 2).half(), nn.Linear(2, 2).bfloat16()), torch.float16),
    "a half parameter before a buffer": (lambda: nn.Linear(2, 2).half(), torch.float16),
    "buffers alone": (lambda: nn.BatchNorm1d(2, affine=False).bfloat16(), torch.bfloat16),
    "nothing": (nn.Identity, torch.float32),
}


@pytest.mark.parametrize("name", list(CASES))
def test_the_type_of_a_module(name: str) -> None:
    build, expected = CASES[name]
    assert parameter_dtype(build()) is expected


def test_a_network_in_float32_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backbone asks in every step: all of its modules would take the host a millisecond or two."""
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("searched")

    monkeypatch.setattr(network[1], "parameters", refuse)
    assert parameter_dtype(network) is torch.float32
