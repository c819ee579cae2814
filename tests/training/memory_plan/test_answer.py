"""A run whose memory runs out says what took how much, and what fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.inference.memory.errors import OutOfMemory, is_out_of_memory
from stable_audio.inference.memory.reserve import readable_size
from stable_audio.training.memory_plan import answer, plan
from tests.training.building import tiny_run

MEMORY_ERRORS: dict[str, Exception] = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    "python": MemoryError(),
}


@pytest.mark.parametrize("kind", MEMORY_ERRORS)
@pytest.mark.parametrize("step", [0, 2])
def test_a_run_answers(kind: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first step and in later ones; the run's own step fails, and its last checkpoint stays."""
    run = tiny_run(tmp_path, max_steps=5)
    original: Any = run.module.training_step

    def fails(*args: Any, **kwargs: Any) -> Any:
        if run.trainer.global_step == step:
            raise MEMORY_ERRORS[kind]
        return original(*args, **kwargs)

    run.module.training_step = fails  # type: ignore[method-assign]
    with pytest.raises(OutOfMemory) as caught:
        run.start()
    message = str(caught.value)
    assert message.startswith(f"out of memory at step {step + 1} (2 rows of 1024 samples): the run takes ")
    for part in ("weights", "gradients", "optimizer", "average", "activations"):
        assert part in message
    assert "\n" not in message
    assert "the cheapest change that fits is " in message


@pytest.mark.slow
def test_what_is_proposed_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device with room for a quarter of the batch, the change that is named is within that room."""
    run = tiny_run(tmp_path, max_steps=1, batch_size=64)
    planner = plan.Planner(run.config, device="cpu")
    sizes = {n: planner.plan(plan.Choice(batch_size=n)).total for n in (16, 64)}
    monkeypatch.setattr(answer, "memory_of", lambda device: sizes[16])

    def fails(*_: Any, **__: Any) -> Any:
        raise MemoryError

    run.module.training_step = fails  # type: ignore[method-assign]
    with pytest.raises(OutOfMemory, match="cheapest change that fits is ") as caught:
        run.start()
    assert "--batch-size" in str(caught.value) or "gradient_checkpointing" in str(caught.value)
    assert f"of {readable_size(sizes[16])}" in str(caught.value)


def test_a_plan_that_fails_does_not_hide_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(tmp_path, max_steps=1)

    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    run.module.training_step = fails  # type: ignore[method-assign]
    monkeypatch.setattr(answer, "_answer", fails)
    with pytest.raises(OutOfMemory, match=r"can't allocate memory.*--batch-size"):
        run.start()


def test_other_errors_are_not_taken_for_it() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(OutOfMemory("answered already"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"))
