"""What may change when a run is continued, and what not: named change by change."""

from __future__ import annotations

import fnmatch
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stable_audio.checkpoints import CheckpointError
from stable_audio.config import ModelConfig, load_config
from stable_audio.training.networks import TrainedNetwork

log = logging.getLogger(__name__)

FIXED = (
    "$.model_type",
    "$.sample_rate",
    "$.audio_channels",
    "$.model.*objective*",
    "$.model.diffusion.type",
    "$.model.diffusion.diffusion_process*",
    "$.model.*_ids*",
    "$.training.method",
    "$.training.transforms*",
    "$.training.optimizer_configs*",
    "$.training.ema.include_conditioner",
    "$.training.loss_configs.discriminator",
    "$.training.loss_configs.discriminator.type",
)
"""Weights, optimizer state or position mean something else after a change of these."""

FREE = (
    "$.training.optimizer_configs.*.scheduler.config.total_steps",
    "$.training.optimizer_configs.*.scheduler.config.epochs",
    "$.training.optimizer_configs.*.scheduler.config.steps_per_epoch",
)
"""Though below a fixed key: the length of a schedule is that of the run."""

UNTOLD = (
    "$.$schema",
    "$.training.demo*",
    "$.training.max_steps",
    "$.model*.scale",
    "$.model*.latent_scale",
    "$.model*.hash",
    "$*ckpt*",
)
"""Says nothing about the run, or follows from its weights."""


LEARNING_RATE = "$.training.learning_rate"


class Change(NamedTuple):
    """A setting that differs: its JSON path, its value in the checkpoint and now; None: not there."""

    path: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.path}: {_shown(self.before)} in the checkpoint, {_shown(self.now)} now"

    @property
    def refused(self) -> bool:
        """Whether a run cannot go on with it."""
        if self.path == LEARNING_RATE:  # another value applies; without one, the optimizer is another
            return self.before is None or self.now is None
        return _matches(self.path, FIXED) and not _matches(self.path, FREE)


def check_changes(config: ModelConfig, stored: Mapping[str, Any] | None, path: Path) -> None:
    """Refuse to continue with settings that would give the weights another meaning; name the others.

    Args:
        stored: the config in the checkpoint at `path`; None: it has none.

    Raises:
        CheckpointError: with every such setting.
    """
    if stored is None:
        return
    changes = settings_changed(stored, config)
    refused = [str(c) for c in changes if c.refused]
    if refused:
        raise CheckpointError(
            f"{path}: the run that it belongs to cannot go on with other settings: {'; '.join(refused)}; "
            "leave --model-config out to use the config inside, or start a new run from its weights with "
            "--pretrained-ckpt-path"
        )
    for change in changes:
        log.warning("changed from here on: %s", change)


def apply_learning_rate(
    config: Mapping[str, Any], networks: Sequence[TrainedNetwork], checkpoint: Mapping[str, Any]
) -> None:
    """Let the optimizers of a training checkpoint go on with the config's `learning_rate`.

    It has no schedule; `optimizer_configs`, which may have one, is left alone, and so is a network with an
    optimizer of its own.
    """
    section = config.get("training") or {}
    rate = section.get("learning_rate")
    if rate is None or section.get("optimizer_configs") is not None:
        return
    for network, state in zip(networks, checkpoint.get("optimizer_states", ())):
        options = network.choice.optimizer.get("config") or {}
        if network.choice.scheduler is not None or options.get("lr") != rate:
            continue
        for group in state["param_groups"]:
            group["lr"] = rate


def settings_changed(stored: Mapping[str, Any], config: ModelConfig) -> list[Change]:
    """Differences between two configs after defaults have been filled in."""
    before, now = _full(stored), config.model_dump(mode="json", by_alias=True)
    return [c for c in _differences("$", before, now) if not _matches(c.path, UNTOLD)]


def _full(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    level = logging.getLogger("stable_audio.config").level
    logging.getLogger("stable_audio.config").setLevel(logging.ERROR)  # its warnings were told when it began
    try:
        return load_config(dict(stored), lenient=True).model_dump(mode="json", by_alias=True)
    except ValueError as error:
        raise CheckpointError(f"the config inside the checkpoint cannot be read: {error}") from error
    finally:
        logging.getLogger("stable_audio.config").setLevel(level)


def _differences(path: str, before: Any, now: Any) -> Iterator[Change]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in [*before, *(k for k in now if k not in before)]:
            yield from _differences(f"{path}.{key}", before.get(key), now.get(key))
    elif before != now:
        yield Change(path, before, now)


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
