"""Networks that a run trains, with their optimizers and LR schedules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn


@dataclass(frozen=True)
class OptimizerChoice:
    """Optimizer and LR scheduler, each `{"type", "config"}`."""

    optimizer: Mapping[str, Any]
    scheduler: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with its optimizer and LR schedule. If there are several, they take turns.

    Attributes:
        name: key in `optimizer_configs`.
        module: the network; its weights that require gradients are trained.
        choice: its optimizer and LR scheduler.
        norm_label: scalar that its gradient norm is logged as.
        rate_label: scalar that its learning rate is logged as, None = only as `train/lr`, `train/lr_1` ...
    """

    name: str
    module: nn.Module
    choice: OptimizerChoice
    norm_label: str = "train/grad_norm"
    rate_label: str | None = None


class Schedule(NamedTuple):
    """An LR schedule: its name in `optimizer_configs`, its `{"type", "config"}`, the steps that it takes."""

    name: str
    config: Mapping[str, Any] | None
    steps: int
