"""What small GPUs take, as docs/planning.md says."""

from __future__ import annotations

import pytest

from stable_audio.config import ModelConfig, load_config
from stable_audio.training.memory_plan import Choice, Planner

ADAPTER = Choice(rank=16, base_precision="bf16", average="none", precision="bf16-mixed", checkpointing=True)
FULL = Choice(average="cpu", precision="bf16-mixed", checkpointing=True, optimizer="AdamW8bit")


def on_stored_latents(name: str) -> ModelConfig:
    config = load_config(name)
    section = config.training.model_copy(update={"pre_encoded": True})
    return config.model_copy(update={"training": section})


@pytest.mark.slow
def test_stable_audio_open_fits_small_cards() -> None:
    planner = Planner(on_stored_latents("stable_audio/stable_audio_open_1_0"))
    assert planner.plan(ADAPTER).total < 6e9
    assert planner.plan(FULL).total < 16e9


@pytest.mark.slow
def test_stable_audio_3_small_fits_three_gigabytes_once_texts_are_cached() -> None:
    planner = Planner(on_stored_latents("stable_audio_3/small"))
    text_encoder = 4 * 281_580_288
    assert planner.plan(ADAPTER).total - text_encoder < 3e9
