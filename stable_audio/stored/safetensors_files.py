"""Read and write safetensors files, whose names must be UTF-8."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stable_audio.audio.atomic import atomic_write
from stable_audio.characters import refuse_name


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, on the CPU, and its metadata.

    Raises:
        ValueError: it is absent, truncated or no safetensors file, or its name is not UTF-8.
    """
    refuse_name(path)
    try:
        with safe_open(os.fspath(path), framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise ValueError(
            f"{path}: absent, truncated or damaged, or no safetensors file ({reason}); copy it again"
        ) from error


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    verify: Callable[[Path], None] | None = None,
) -> None:
    """Write a file atomically, and its folder if there is none.

    Args:
        tensors: contiguous, without shared memory.
        verify: looks at the finished file before it takes its name, and raises an error if it is not right.

    Raises:
        OSError: it cannot be written, for example because the disk is full.
        ValueError: its name is not UTF-8.
    """
    refuse_name(path)
    try:
        with atomic_write(path) as temporary:
            save_file(dict(tensors), temporary, None if metadata is None else dict(metadata))
            if verify is not None:
                verify(temporary)
    except SafetensorError as error:  # its error for a full disk
        raise OSError(f"{path} was not written: {error}") from error
