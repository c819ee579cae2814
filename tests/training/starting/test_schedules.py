"""LR schedules that end: named before the run, following its length, and never its death."""

from __future__ import annotations

import csv
import logging
import math
from pathlib import Path
from typing import Any

import pytest

from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.config import load_config
from stable_audio.training.check.rehearsal import rehearse
from stable_audio.training.errors import TrainingError
from tests.training.autoencoder.test_autoencoder import module_of
from tests.training.autoencoder.test_autoencoder import tiny_config as autoencoder_config
from tests.training.building import DATASET, tiny_config, tiny_run


def _one_cycle(**options: Any) -> dict[str, Any]:
    scheduler = {"type": "OneCycleLR", "config": {"max_lr": 1e-3, "pct_start": 0.25, **options}}
    optimizer = {"type": "AdamW", "config": {"lr": 1e-3}}
    return tiny_config(optimizer_configs={"diffusion": {"optimizer": optimizer, "scheduler": scheduler}})


def _rates(folder: Path) -> list[float]:
    with open(folder / "metrics.csv", newline="") as file:
        return [float(row["train/lr"]) for row in csv.DictReader(file)]


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def test_the_schedule_follows_the_run(tmp_path: Path) -> None:
    assert tiny_run(tmp_path, _one_cycle(), max_steps=8).start() == 0
    # torch: from max_lr / 25 up until step 8 / 4 - 1, and down to max_lr / 25 / 1e4 at the last step, 7. The
    # rate that is logged is the one of the next step.
    rates = [_cosine(4e-5, 1e-3, 1.0)] + [_cosine(1e-3, 4e-9, (n - 1) / 6) for n in range(2, 8)]
    assert _rates(tmp_path / "run")[:7] == pytest.approx(rates, rel=1e-5)


@pytest.mark.parametrize("options", [{"total_steps": 5}, {"epochs": 1, "steps_per_epoch": 5}])
def test_a_schedule_that_ends_before_the_run_is_refused(tmp_path: Path, options: dict[str, int]) -> None:
    message = r"diffusion\.scheduler\.config: the schedule ends after 5 steps, but is to take 6.*--max-steps"
    with pytest.raises(TrainingError, match=message):
        tiny_run(tmp_path, _one_cycle(**options), max_steps=6)
    assert tiny_run(tmp_path, _one_cycle(**options), max_steps=5).start() == 0


def test_without_an_end_the_run_ends_with_its_schedule(tmp_path: Path) -> None:
    assert tiny_run(tmp_path, _one_cycle(total_steps=5), max_steps=-1).start() == 0
    assert load_torch_file(tmp_path / "run" / "last.ckpt")["stable_audio"]["step"] == 5
    with pytest.raises(ValueError, match="give --max-steps, or total_steps"):
        tiny_run(tmp_path, _one_cycle(), name="endless", max_steps=-1).start()


def test_a_run_that_is_continued_for_longer_has_a_longer_schedule(tmp_path: Path) -> None:
    tiny_run(tmp_path, _one_cycle(), max_steps=4).start()
    assert tiny_run(tmp_path, _one_cycle(), max_steps=8, recover=True).start() == 0
    tiny_run(tmp_path, _one_cycle(), name="whole", max_steps=8).start()
    assert _rates(tmp_path / "run")[4:] == _rates(tmp_path / "whole")[4:]


def test_checkpoints_of_torchs_own_schedule_continue(tmp_path: Path) -> None:
    import torch

    tiny_run(tmp_path, _one_cycle(total_steps=4), max_steps=2).start()
    path = tmp_path / "run" / "last.ckpt"
    stored = load_torch_file(path)
    stored["lr_schedulers"][0] |= {"total_steps": 4, "_schedule_phases": []}
    older = tmp_path / "older.ckpt"
    torch.save(stored, older)  # not onto the file that `stored` is mapped from
    options = {"name": "longer", "max_steps": 6, "ckpt_path": str(older)}
    assert tiny_run(tmp_path, _one_cycle(), **options).start() == 0


def test_networks_that_take_turns_share_the_steps() -> None:
    for mode, warmup in (("adv", 3), ("full", 0), ("full", 3), ("full", 4), ("full", 99)):
        module = module_of(autoencoder_config(warmup_mode=mode, warmup_steps=warmup))
        for steps in range(1, 12):
            theirs = sum(module.is_discriminator_step(s) for s in range(steps))
            assert [s.steps for s in module.schedules(steps)] == [steps - theirs, theirs], (mode, warmup)


def test_a_rate_that_rises_again_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = _one_cycle()
    config["training"]["optimizer_configs"]["diffusion"]["scheduler"] = {
        "type": "CosineAnnealingLR",
        "config": {"T_max": 3},
    }
    with caplog.at_level(logging.WARNING):
        tiny_run(tmp_path, config, max_steps=4)
    assert "rises again after T_max = 3 of 4 steps" in caplog.text


def test_a_file_that_contradicts_itself_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    config = _one_cycle(total_steps=5)
    config["training"]["max_steps"] = 6
    load_config(config)
    assert "the schedule ends after 5 steps, but 6 are to be taken" in caplog.text


def test_a_rehearsal_needs_no_length() -> None:
    assert rehearse(load_config(_one_cycle()), DATASET, accelerator="cpu")["loss"] > 0
