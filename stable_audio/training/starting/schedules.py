"""LR schedules with an end, before which a run must end."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stable_audio.optim import schedule_length
from stable_audio.training.base import TrainingModule
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from stable_audio.wording import plural

log = logging.getLogger(__name__)


def within_schedules(module: TrainingModule, options: RunOptions) -> RunOptions:
    """The options, with max_steps at the end of the first schedule if they have no end themselves.

    Raises:
        TrainingError: a schedule ends before the run.
    """
    if options.max_steps < 0:
        return _ending(module, options)
    short = [
        f"$.training.optimizer_configs.{name}.scheduler.config: the schedule ends after "
        f"{plural(length, 'step')}, but is to take {steps} in a run of {options.max_steps}; leave "
        "total_steps out, so that it follows --max-steps, or give fewer steps"
        for name, config, steps in module.schedules(options.max_steps)
        if (length := schedule_length(config)) is not None and length < steps
    ]
    if short:
        raise TrainingError("; ".join(short))
    for name, config, steps in module.schedules(options.max_steps):
        if (period := _period(config)) is not None and period < steps:
            log.warning(
                "$.training.optimizer_configs.%s.scheduler: the learning rate rises again after T_max = %d "
                "of %s",
                name,
                period,
                plural(steps, "step"),
            )
    return options


def _ending(module: TrainingModule, options: RunOptions) -> RunOptions:
    def fits(steps: int) -> bool:
        return all(
            (length := schedule_length(config)) is None or length >= share
            for _, config, share in module.schedules(steps)
        )

    lengths = [n for _, config, _ in module.schedules(-1) if (n := schedule_length(config)) is not None]
    if not lengths:
        return options
    # Networks that take turns share the run's steps, so it may be longer than a schedule.
    longest = len(lengths) * max(lengths) + 1
    last = bisect_left(range(1, longest + 1), True, key=lambda steps: not fits(steps))
    log.warning("--max-steps is not given: the run ends at step %d, with its LR schedule", last)
    return replace(options, max_steps=last)


def _period(config: Mapping[str, Any] | None) -> int | None:
    if config is None or config.get("type") != "CosineAnnealingLR":
        return None
    period = (config.get("config") or {}).get("T_max")
    return int(period) if period is not None else None
