"""Changes of a run's settings that save memory, the cheapest first."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from stable_audio.nn.checkpointing import ELEMENTWISE
from stable_audio.optim import OPTIMIZERS
from stable_audio.training.devices.float8 import without_float8
from stable_audio.training.memory_plan.choice import Choice, adapters_are_known

if TYPE_CHECKING:
    from stable_audio.training.memory_plan.plan import Planner, TrainingPlan

log = logging.getLogger(__name__)

RANK = 16
"""Of an adapter that a plan proposes."""


Saving = Callable[[Choice], Choice | None]
"""One way to save memory: the settings -> the settings with it; None: it does not apply to them."""


def _halved(choice: Choice) -> Choice | None:
    if choice.batch_size == 1 or choice.releases:
        return None
    half = -(-choice.batch_size // 2)
    return replace(choice, batch_size=half, accum_batches=choice.accum_batches * 2)


def _one_clip(choice: Choice) -> Choice | None:
    if choice.batch_size == 1 or choice.releases:
        return None
    return replace(choice, batch_size=1, accum_batches=choice.accum_batches * choice.batch_size)


def _mixed(choice: Choice) -> Choice | None:
    return replace(choice, precision="bf16-mixed") if choice.precision == "32-true" else None


def _elementwise(choice: Choice) -> Choice | None:
    return replace(choice, checkpointing=ELEMENTWISE) if choice.checkpointing is False else None


def _checkpointed(choice: Choice) -> Choice | None:
    return None if choice.checkpointing is True else replace(choice, checkpointing=True)


def _average_on_host(choice: Choice) -> Choice | None:
    return replace(choice, average="cpu") if choice.average == "device" else None


def _eight_bits(choice: Choice) -> Choice | None:
    known = "AdamW8bit" in OPTIMIZERS
    return replace(choice, optimizer="AdamW8bit") if known and choice.optimizer is None else None


def _released(choice: Choice) -> Choice | None:
    if choice.releases or choice.accum_batches > 1 or choice.sharing.processes > 1:
        return None
    return replace(choice, releases=True)


def _low(choice: Choice) -> Choice | None:
    mixed = without_float8(choice.precision) in ("32-true", "bf16-mixed")
    return replace(choice, precision="bf16-true") if mixed else None


def _adapter(choice: Choice) -> Choice | None:
    if choice.rank is not None:
        return None
    kept = {"precision": "bf16-mixed", "optimizer": None, "releases": False, "average": "none"}
    return replace(choice, rank=RANK, **kept)  # type: ignore[arg-type]


def _low_base(choice: Choice) -> Choice | None:
    held = choice.base_precision not in (None, "float32")
    return None if choice.rank is None or held else replace(choice, base_precision="bf16")


def _offloaded(choice: Choice) -> Choice | None:
    if choice.rank is None or choice.offloads or choice.sharing.processes > 1:
        return None
    return replace(choice, offloads=True, checkpointing=True)  # what recomputes can be brought again


def _bits(choice: Choice) -> Choice | None:
    held = choice.base_precision in ("int8", "int4")
    return None if choice.rank is None or held else replace(choice, base_precision="int8")


def _batch_flags(choice: Choice) -> str:
    return f"--batch-size {choice.batch_size} --accum-batches {choice.accum_batches}"


CHANGES: tuple[Saving, ...] = (
    _mixed,
    _halved,
    _one_clip,
    _elementwise,
    _checkpointed,
    _average_on_host,
    _eight_bits,
    _released,
    _low,
    _adapter,
    _low_base,
    _bits,
    _offloaded,
)
"""In the order of what they cost: nothing, time, quality."""


def cheapest(planner: Planner, plan: TrainingPlan, *, adapters: bool = True) -> TrainingPlan | None:
    """The plan with the cheapest changes by which a run fits its device; None: nothing helps.

    Changes are added in their order until the run fits, and those that are not needed are taken back. An
    adapter is proposed last, with what saves memory of its own, since it trains something else.

    Args:
        adapters: propose adapters at all.
    """
    assert plan.device_bytes is not None
    changes: list[Saving] = []
    allowed = [c for c in CHANGES if c is not _adapter or (adapters and adapters_are_known(planner.config))]
    for change in allowed:
        tried = _tried(planner, plan, [*changes, change])
        if tried is None:
            continue
        changes.append(change)
        if tried.fits:
            return _pruned(planner, plan, changes, tried)
    return None


def _pruned(
    planner: Planner, plan: TrainingPlan, changes: list[Saving], fitting: TrainingPlan
) -> TrainingPlan:
    for change in reversed(changes[:-1]):
        without = [c for c in changes if c is not change]
        tried = _tried(planner, plan, without)
        if tried is not None and tried.fits:
            changes, fitting = without, tried
    return fitting


def _tried(planner: Planner, plan: TrainingPlan, changes: list[Saving]) -> TrainingPlan | None:
    """The plan with these changes; None if one of them does not apply."""
    choice: Choice | None = plan.choice
    for change in changes:
        choice = change(choice) if choice is not None else None
    if choice is None:
        return None
    try:
        return planner.plan(choice, device_bytes=plan.device_bytes)
    except (ValueError, RuntimeError) as error:  # the model has no such setting, or cannot run by it
        log.debug("%s: not planned", choice.words(), exc_info=error)
        return None


def advice(before: Choice, after: Choice) -> Iterator[str]:
    """What to do to get from one choice to another, the cheapest first."""
    differing = set(before.differences(after))
    sayings = {
        "precision": f"--precision {after.precision}",
        "batch_size": _batch_flags(after),
        "checkpointing": f'"gradient_checkpointing": {json.dumps(after.checkpointing)}',
        "average": '"ema": {"device": "cpu"}' if after.average == "cpu" else '"use_ema": false',
        "optimizer": f"the optimizer {after.optimizer}",
        "releases": '"gradient_release": true',
        "rank": f'train an adapter, "lora_config": {{"rank": {after.rank}}}',
        "base_precision": f'"base_precision": "{after.base_precision}"',
        "offloads": '"offload_blocks": true',
    }
    if "rank" in differing:
        sayings.pop("average")  # adapters have none unless asked for
    yield from (sentence for name, sentence in sayings.items() if name in differing)
