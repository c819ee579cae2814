"""Torch files of forks: weights under another entry than `state_dict`, or each part under its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.checkpoints import CheckpointError, load_model, read_checkpoint
from stable_audio.factory import create_model_from_config
from tests.config import examples

State = dict[str, Tensor]


def by_part(state: State) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        parts.setdefault(part, {})[rest] = value
    return parts


LAYOUTS: dict[str, Callable[[State], dict[str, Any]]] = {
    "bare": lambda s: {**s},
    "state_dict": lambda s: {"state_dict": s},
    "of a wrapper": lambda s: {"state_dict": {f"autoencoder.{k}": v for k, v in s.items()}},
    "model": lambda s: {"model": s, "optimizer": {"state": {}}, "step": 3},
    "autoencoder": lambda s: {"autoencoder": s},
    "parts": lambda s: {**by_part(s), "step": 3},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_autoencoder_is_read(layout: str, tmp_path: Path) -> None:
    data = examples.autoencoder()
    torch.manual_seed(0)
    state = create_model_from_config(data).state_dict()
    torch.save(LAYOUTS[layout](state), tmp_path / "vae.ckpt")
    loaded = load_model(tmp_path / "vae.ckpt", config=data)[0].state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


@pytest.mark.parametrize(
    "content", [{"optimizer": {"lr": 0.1}}, {"encoder": {"step": 3}}, {"state_dict": {}}]
)
def test_a_file_without_weights_says_what_it_has(content: dict[str, Any], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "m.ckpt")
    with pytest.raises(
        CheckpointError, match=rf"no weights found; its entries are \['{next(iter(content))}'\]"
    ):
        read_checkpoint(tmp_path / "m.ckpt")
