"""Compare the config of a continued run with that in its checkpoint, and refuse changes that cannot work."""

from __future__ import annotations

import fnmatch
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stable_audio.checkpoints import CheckpointError
from stable_audio.config import ModelConfig, load_config
from stable_audio.incidents import incident
from stable_audio.training.optimisation.networks import TrainedNetwork

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
    "$.training.lora_config*",
    "$.training.base_precision",
    "$.training.trainable*",
    "$.training.optimizer_configs*",
    "$.training.ema.include_conditioner",
    "$.training.loss_configs.discriminator",
    "$.training.loss_configs.discriminator.type",
)
"""Settings that must not change, since weights, optimizer state or position would change their meaning."""

FREE = (
    "$.training.optimizer_configs.*.scheduler.config.total_steps",
    "$.training.optimizer_configs.*.scheduler.config.epochs",
    "$.training.optimizer_configs.*.scheduler.config.steps_per_epoch",
)
"""Settings that may change although they are below a fixed key: lengths of schedules."""

IGNORED = (
    "$.$schema",
    "$.training.demo*",
    "$.training.max_steps",
    "$.model*.scale",
    "$.model*.latent_scale",
    "$.model*.hash",
    "$*ckpt*",
)
"""Settings whose changes are not reported, since they do not affect training or follow from the weights."""

TRAINS: Mapping[str, bool] = {
    "$.training.decoder_finetune": False,
    "$.model*.enable_grad": True,
    "$.model*.requires_grad": True,
}
"""Values that train parts which the others freeze. What a run has frozen stays frozen."""

LEARNING_RATE = "$.training.learning_rate"


class Change(NamedTuple):
    """A setting that differs: its JSON path, its value in the checkpoint and now; None: absent."""

    path: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.path}: {_shown(self.before)} in the checkpoint, {_shown(self.now)} now"

    @property
    def refused(self) -> bool:
        """Whether a run cannot continue with this change."""
        if self.path == LEARNING_RATE:  # another value may be used, but without a value the optimizer changes
            return self.before is None or self.now is None
        if any(_matches(self.path, (switch,)) and self.now is value for switch, value in TRAINS.items()):
            return True
        return _matches(self.path, FIXED) and not _matches(self.path, FREE)


def check_changes(config: ModelConfig, before: Mapping[str, Any] | None, path: Path) -> None:
    """Refuse changes of settings with which a run cannot continue, and log the others.

    Args:
        config: the config now.
        before: the config in the checkpoint at `path`; None: it has none.
        path: the checkpoint.

    Raises:
        CheckpointError: with every refused change.
    """
    if before is None:
        return
    changes = changed_settings(before, config)
    refused = [str(c) for c in changes if c.refused]
    if refused:
        raise CheckpointError(
            f"{path}: its run cannot continue with other settings: {'; '.join(refused)}; "
            f"give --ckpt-path {path} in place of --model-config to use the config inside, or start a "
            "new run from its weights with --pretrained-ckpt-path"
        )
    for change in changes:
        log.warning("changed from here on: %s", change, extra=incident("changed setting"))


def apply_learning_rate(
    config: Mapping[str, Any], networks: Sequence[TrainedNetwork], checkpoint: Mapping[str, Any]
) -> None:
    """Set the learning rate in the optimizer states of a training checkpoint to the config's `learning_rate`.

    This changes neither optimizers of `optimizer_configs`, which may have a schedule, nor networks with an
    optimizer of their own.
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


def changed_settings(stored: Mapping[str, Any], config: ModelConfig) -> list[Change]:
    """Differences between two configs after defaults have been filled in."""
    before, now = _full(stored), config.model_dump(mode="json", by_alias=True)
    return [c for c in differences("$", before, now) if not _matches(c.path, IGNORED)]


def _full(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    level = logging.getLogger("stable_audio.config").level
    logging.getLogger("stable_audio.config").setLevel(
        logging.ERROR
    )  # warnings were logged when the run began
    try:
        return load_config(dict(stored), lenient=True).model_dump(mode="json", by_alias=True)
    except ValueError as error:
        raise CheckpointError(f"the config inside the checkpoint cannot be read: {error}") from error
    finally:
        logging.getLogger("stable_audio.config").setLevel(level)


def differences(path: str, before: Any, now: Any) -> Iterator[Change]:
    """The values below `path` that differ between two nested mappings."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in [*before, *(k for k in now if k not in before)]:
            yield from differences(f"{path}.{key}", before.get(key), now.get(key))
    elif before != now:
        yield Change(path, before, now)


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
