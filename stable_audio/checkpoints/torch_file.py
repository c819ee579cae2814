"""Read files of torch.save without running code from them."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from stable_audio.characters import refuse_name
from stable_audio.checkpoints.checksums import damaged_members
from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.stored.contents import why_not_weights
from stable_audio.wording import plural


def load_torch_file(path: Path, *, verify: bool = True) -> dict[str, Any]:
    """A dictionary written by torch.save, tensors on the CPU, nothing in it executed.

    Args:
        verify: compare the bytes with the checksums in the file; False where that has been done.

    Raises:
        CheckpointError: missing, truncated, damaged, foreign, or would need to run code to be read.
    """
    refuse_foreign(path)
    try:
        archive = zipfile.is_zipfile(path)
        if verify and archive and (damaged := damaged_members(path)):
            raise damage_error(path, damaged)
        # Memory-mapped, so that entries which are not used take no memory.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: not a checkpoint, or one with objects that only code inside it can restore; "
            "give another file, or save it again with tensors and plain values only"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or _short(error)})") from error
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # what the bytes of a damaged pickle raise is unbounded
        raise CheckpointError(f"{path}: truncated, damaged or no checkpoint at all; copy it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, but a dictionary is needed")
    return content


def damage_error(path: Path, parts: list[str]) -> CheckpointError:
    """The error for a file of which some parts, by name, are not what was written."""
    listed = ", ".join(parts[:3]) + (", ..." if len(parts) > 3 else "")
    return CheckpointError(
        f"{path}: damaged since it was written: the checksum differs in {plural(len(parts), 'part')} "
        f"({listed}); copy it again, or take another checkpoint"
    )


def refuse_foreign(path: Path) -> None:
    """Raise CheckpointError if a file cannot be read, or its name or first bytes say that it holds none."""
    refuse_name(path)
    try:
        reason = why_not_weights(path)
    except OSError as error:  # such as of a folder, a link to nothing, or a file of somebody else
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or _short(error)})") from error
    if reason is not None:
        raise CheckpointError(f"{path}: {reason}")


def _short(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
