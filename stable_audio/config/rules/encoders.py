"""What conditioners around pretrained encoders need on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from stable_audio.conditioning.pretrained.clap import FILES
from stable_audio.config.reporting.problems import Loc
from stable_audio.config.rules.context import Context, dicts, mapping

PLACES = (
    "clap_ckpt_path",
    "t5_model_name",
    "model_path",
    "model_name",
    "weights",
    "tokenizer",
    "tokenizer_name",
)
"""Keys of conditioners that name a file, a folder, or a model of the hub."""

TRAINED = ("enable_grad", "finetune")
"""Keys by which an encoder trains; a checkpoint then holds it, and needs no file."""


def encoders_are_at_hand(ctx: Context) -> Iterator[tuple[Loc, str]]:
    """Files and folders of frozen encoders exist; the model can be built without, but not used."""
    for index, entry in enumerate(dicts(ctx.get("model", "conditioning", "configs", default=[]))):
        config = mapping(entry.get("config"))
        if any(config.get(key) for key in TRAINED):
            continue
        for key in PLACES:
            name = config.get(key)
            if isinstance(name, str) and is_path(name) and not os.path.exists(os.path.expanduser(name)):
                yield (
                    ("model", "conditioning", "configs", index, "config", key),
                    f"{name} does not exist; the model can be built without it, but not trained or used",
                )


def is_path(name: str) -> bool:
    """Whether a name can only be that of a file or folder, and not that of a model on the hub."""
    several = name.replace("\\", "/").count("/") > 1
    return name.startswith((".", "~", "/")) or os.path.isabs(name) or several or Path(name).suffix in FILES
