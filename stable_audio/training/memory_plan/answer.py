"""What a run says when its memory runs out: what takes how much, and the cheapest change that fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stable_audio.config import ModelConfig
from stable_audio.inference.memory.errors import OutOfMemory, free_memory_of, out_of_memory_with
from stable_audio.inference.memory.reserve import memory_of, readable_size, room_after_failure
from stable_audio.training.memory_plan.changes import advice, cheapest
from stable_audio.training.memory_plan.choice import choice_of
from stable_audio.training.memory_plan.plan import Planner, TrainingPlan, precision_on
from stable_audio.training.memory_plan.processes import Sharing
from stable_audio.training.options import RunOptions
from stable_audio.wording import plural


def out_of_memory(
    error: BaseException,
    config: ModelConfig,
    options: RunOptions,
    *,
    precision: str,
    device: str,
    step: int,
    shape: Sequence[int],
    sharing: Sharing = Sharing(),  # noqa: B008 (frozen)
) -> OutOfMemory:
    """The error for a run whose memory ran out.

    Args:
        error: the error of torch; what its functions held is freed.
        precision: of the run.
        device: type of its device.
        step: optimizer steps before.
        shape: shape of the batch of that step.
        sharing: the processes of the run.
    """
    free_memory_of(error)
    rows = f"{plural(shape[0], 'row')} of {shape[-1]}" if shape else "no batch yet"
    start = f"out of memory at step {step + 1:,} ({rows}{'' if not shape else _unit(config)})"
    return out_of_memory_with(
        start,
        lambda: _answer(config, options, precision, device, sharing),
        error,
        "give a smaller --batch-size with more --accum-batches, or set "
        '"gradient_checkpointing": true (docs/planning.md)',
    )


def _answer(config: ModelConfig, options: RunOptions, precision: str, device: str, sharing: Sharing) -> str:
    planner = Planner(config, device=device)
    choice = choice_of(config, options, precision=precision_on(device, precision), sharing=sharing)
    plan = planner.plan(choice, device_bytes=memory_of(device))
    fitting = cheapest(planner, tightened(plan))
    available = "" if plan.device_bytes is None else f" of {readable_size(plan.device_bytes)}"
    taken = f"the run takes about {readable_size(plan.total)}{available}: {plan.in_words()}"
    if fitting is None:
        return f"{taken}; no setting makes it fit: use a shorter sample_size or a smaller model"
    change = " and ".join(advice(plan.choice, fitting.choice))
    return f"{taken}; the cheapest change that fits is {change}, about {readable_size(fitting.total)}"


def tightened(plan: TrainingPlan) -> TrainingPlan:
    """The plan for a device that the run does not fit, as has been seen."""
    room = room_after_failure(plan.total, plan.parts["reserve"], plan.device_bytes)
    return replace(plan, device_bytes=room)


def _unit(config: ModelConfig) -> str:
    return " latent frames" if getattr(config.training, "pre_encoded", False) else " samples"
