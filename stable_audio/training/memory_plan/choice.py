"""The settings of a run that decide how much memory it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

from stable_audio.config import ModelConfig
from stable_audio.nn.checkpointing import Recomputation, in_words
from stable_audio.training.memory_plan.processes import Sharing
from stable_audio.training.options import RunOptions

Average = Literal["device", "cpu", "none"]
"""Where the average of the weights is."""

WITHOUT_TRAINING = {"learning_rate": 1e-4}
"""The training section of a plan for a model file without one: Adam, and an average of the weights."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Settings of a run, as far as memory depends on them.

    Attributes:
        batch_size: clips per batch.
        accum_batches: batches per optimizer step.
        precision: of `RunOptions`, other than "auto".
        rank: of an adapter; None: the weights themselves are trained, as far as the file says.
        checkpointing: what is computed twice.
        optimizer: its name; None: the file's own.
        average: where the average is.
        releases: whether each weight steps in the backward pass, and its gradient goes at once.
        base_precision: what the frozen weights under an adapter are held in; None: as the file says.
        offloads: whether frozen weights of blocks come to the device only when they compute.
        sharing: the processes that train together.
    """

    batch_size: int = 1
    accum_batches: int = 1
    precision: str = "32-true"
    rank: int | None = None
    checkpointing: Recomputation = False
    optimizer: str | None = None
    average: Average = "device"
    releases: bool = False
    base_precision: str | None = None
    offloads: bool = False
    sharing: Sharing = Sharing()  # noqa: RUF009 (frozen)

    def words(self) -> str:
        """The settings in one line."""
        parts = ["all weights" if self.rank is None else f"an adapter of rank {self.rank}", self.precision]
        if self.base_precision is not None:
            parts.append(f"base in {self.base_precision}")
        if self.offloads:
            parts.append("blocks offloaded")
        if self.checkpointing is not False:
            parts.append(in_words(self.checkpointing))
        if self.optimizer is not None:
            parts.append(self.optimizer)
        if self.rank is None:
            parts.append(
                {"device": "average", "cpu": "average on the host", "none": "no average"}[self.average]
            )
        if self.releases:
            parts.append("gradients released")
        batch = f"batch of {self.batch_size}"
        if self.accum_batches > 1:
            batch += f" x {self.accum_batches}"
        together = [self.sharing.words()] if self.sharing.words() else []
        return ", ".join([*parts, batch, *together])

    def differences(self, other: Choice) -> Iterator[str]:
        """Names of the settings in which two choices differ."""
        for field in fields(self):
            if getattr(self, field.name) != getattr(other, field.name):
                yield field.name


def choice_of(
    config: ModelConfig,
    options: RunOptions,
    *,
    precision: str,
    sharing: Sharing = Sharing(),  # noqa: B008 (frozen)
) -> Choice:
    """The choice that a model file and the options of a run make.

    Args:
        precision: of the run, since the options may leave it to the device.
        sharing: the processes that train together.
    """
    section: Any = config.training
    if section is None:
        return Choice(
            batch_size=options.batch_size,
            accum_batches=options.accum_batches,
            precision=precision,
            sharing=sharing,
        )
    lora = getattr(section, "lora_config", None)
    return Choice(
        batch_size=options.batch_size,
        accum_batches=options.accum_batches,
        precision=precision,
        rank=None if lora is None else lora.rank,
        checkpointing=getattr(section, "gradient_checkpointing", False),
        average=_average(section),
        releases=bool(getattr(section, "gradient_release", False)),
        base_precision=getattr(section, "base_precision", None),
        offloads=bool(getattr(section, "offload_blocks", False)),
        sharing=sharing,
    )


def _average(section: Any) -> Average:
    if not getattr(section, "use_ema", False):
        return "none"
    return "cpu" if getattr(section.ema, "device", None) == "cpu" else "device"


def configured(config: ModelConfig, choice: Choice) -> ModelConfig:
    """The config with the settings of a choice in its training section.

    Raises:
        ValueError: the section of this model type has no such setting.
    """
    kind = type(config).model_fields["training"].annotation
    section = config.training
    if section is None:
        section = _section_class(kind).model_validate(WITHOUT_TRAINING)
    own = choice_of(config.model_copy(update={"training": section}), RunOptions(), precision="")
    changed = set(choice.differences(own))
    data: dict[str, Any] = section.model_dump(by_alias=True, exclude_unset=True)
    data.pop("teacher_model_ckpt", None)
    data.pop("teacher_model", None)
    data.pop("lora_ckpt_path", None)
    if "checkpointing" in changed:
        data["gradient_checkpointing"] = choice.checkpointing
    if "releases" in changed:
        data["gradient_release"] = choice.releases
        data.pop("gradient_clip_val", None)
    if "average" in changed:
        data["use_ema"] = choice.average != "none"
        if choice.average != "none":
            data["ema"] = {**data.get("ema", {}), "device": "cpu" if choice.average == "cpu" else None}
    if choice.optimizer is not None:
        data["optimizer_configs"] = _with_optimizer(data, choice.optimizer)
        data.pop("learning_rate", None)
    if "rank" in changed:
        data.pop("lora_config", None)
        if choice.rank is not None:
            data["lora_config"] = {"rank": choice.rank}
    if "base_precision" in changed:
        data["base_precision"] = choice.base_precision
    data.pop("offload_blocks", None)  # counted apart, since blocks on shapes are not brought anywhere
    return config.model_copy(update={"training": type(section).model_validate(data)})


def _with_optimizer(data: dict[str, Any], name: str) -> dict[str, Any]:
    configs = data.get("optimizer_configs")
    names = list(configs) if configs else ["diffusion"]
    rate = {"lr": data.get("learning_rate", 1e-4)}
    return {each: {"optimizer": {"type": name, "config": rate}} for each in names}


def _section_class(annotation: Any) -> Any:
    """The class of a section that may be None."""
    return next(part for part in annotation.__args__ if part is not type(None))


def adapters_are_known(config: ModelConfig) -> bool:
    """Whether models of this type can be trained by adapters."""
    kind = _section_class(type(config).model_fields["training"].annotation)
    return "lora_config" in kind.model_fields
