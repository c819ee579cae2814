"""The model that is fine-tuned: which file it comes from, its config, and its shapes."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_audio.checkpoints import read_checkpoint
from stable_audio.checkpoints.errors import NoConfigError
from stable_audio.checkpoints.loading import stored_model_config
from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.training.errors import TrainingError
from stable_audio.training.finetune.request import FinetuneRequest

KINDS = ("diffusion_cond", "diffusion_cond_inpaint", "diffusion_uncond")


@dataclass(frozen=True)
class FinetuneBase:
    """The model to be fine-tuned, as shapes.

    Attributes:
        path: its file.
        config: its model file, as JSON values, without `training`.
        stored: the same with the training of the model itself, if that is known.
        model: on the meta device.
    """

    path: Path
    config: dict[str, Any]
    stored: Mapping[str, Any]
    model: Any


def read_base(request: FinetuneRequest) -> FinetuneBase:
    """The model as shapes.

    Raises:
        ValueError: no weights, no config, or no diffusion model.
    """
    content = read_checkpoint(request.checkpoint)
    if request.model_config is not None:
        config = load_config(request.model_config)
    elif content.config is None:
        raise NoConfigError(f"{content.path}: no config inside the file or beside it; give --model-config")
    else:
        config = stored_model_config(content.config, source_name=f"{content.path}, config")
    path = content.path
    del content
    gc.collect()
    if config.model_type not in KINDS:
        raise TrainingError(
            f"{path}: its model_type is {config.model_type}; this command fine-tunes {', '.join(KINDS)}"
        )
    known = config.as_dict()
    values = {key: value for key, value in known.items() if key not in ("training", "$schema")}
    if request.seconds is not None:
        multiple = create_model_from_config(load_config(values), device="meta").length_multiple
        values["sample_size"] = max(1, round(request.seconds * values["sample_rate"] / multiple)) * multiple
    model = create_model_from_config(load_config(values), device="meta")
    return FinetuneBase(Path(path), values, {**known, **values}, model)
