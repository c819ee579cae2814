"""What our own files say of themselves."""

from __future__ import annotations

from pathlib import Path

from stable_audio.checkpoints.checksums import ALGORITHM_KEY, CHECKSUMS_KEY
from stable_audio.checkpoints.errors import CheckpointError

FORMAT = "stable-audio"
FORMAT_VERSION = 2
WHOLE_VERSION = 1
"""What files say that need neither transforms nor a base to be loaded, which earlier versions can read."""

TRAINING_ENTRY = "stable_audio"
TRANSFORMS_KEY, BASE_KEY = "transforms", "base"
ADAPTED_KEY = "adapted_model"
"""What training checkpoints say of the model that their adapter is for, as passports do."""

SELF_DESCRIPTION = (
    "config",
    "format",
    "format_version",
    TRANSFORMS_KEY,
    BASE_KEY,
    ALGORITHM_KEY,
    CHECKSUMS_KEY,
)
"""Keys in the metadata of an inference file that say nothing of its model's training."""


def refuse_newer(path: Path, version: int) -> None:
    """Raise CheckpointError if a file has a version of the format that this program does not read."""
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: written by a newer version (format {version}, this one reads up to {FORMAT_VERSION}); "
            "upgrade stable-audio"
        )
