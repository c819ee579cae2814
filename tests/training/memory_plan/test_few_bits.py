"""Optimizers of few bits have their numbers also where a plan of memory was the first to ask for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.config import load_config
from stable_audio.optim.torchao_classes import computed_by_torchao
from stable_audio.training.callbacks import summary
from stable_audio.training.memory_plan import Choice, Planner
from stable_audio.training.record.lines import planned
from tests.training.building import tiny_config, tiny_run
from tests.training.saving.test_resume import assert_same_checkpoint

pytest.importorskip("torchao.optim")


def _config(kind: str) -> dict[str, Any]:
    """A model some of whose weights have averages in blocks."""
    optimizer = {"optimizer": {"type": kind, "config": {"lr": 1e-3}}}
    config = tiny_config(optimizer_configs={"diffusion": optimizer})
    del config["training"]["learning_rate"]
    config["model"]["diffusion"]["config"]["embed_dim"] = 64
    return config


def begin_anew() -> None:
    """As in a process that has not asked torchao for anything yet."""
    from torchao.optim import subclass_4bit, subclass_8bit

    computed_by_torchao.cache_clear()
    for module in (subclass_4bit, subclass_8bit):
        for values in (module.get_qmap_signed, module.get_qmap_unsigned):
            values.cache_clear()


def test_the_values_of_codes_are_numbers_after_a_plan() -> None:
    begin_anew()
    from torchao.optim import subclass_4bit, subclass_8bit
    from torchao.optim.quant_utils import create_dynamic_map

    for kind in ("AdamW8bit", "AdamW4bit"):
        Planner(load_config(_config(kind)), device="cpu").plan(Choice())
    assert subclass_8bit.get_qmap_signed() == tuple(create_dynamic_map(signed=True))
    assert subclass_8bit.get_qmap_unsigned() == tuple(create_dynamic_map(signed=False))
    assert subclass_4bit.get_qmap_signed() == tuple(create_dynamic_map(True, 3, 4))
    assert subclass_4bit.get_qmap_unsigned() == tuple((torch.arange(1, 17) / 16).tolist())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["AdamW8bit", "AdamW4bit"])
def test_a_run_that_begins_with_its_plan_trains_as_one_without(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_anew()
    assert tiny_run(tmp_path, _config(kind), name="plain").start() == 0
    monkeypatch.setattr(summary, "planned", planned)  # the other tests of training leave it out
    begin_anew()
    assert tiny_run(tmp_path, _config(kind), name="planned").start() == 0
    assert_same_checkpoint(tmp_path / "planned" / "last.ckpt", tmp_path / "plain" / "last.ckpt")
