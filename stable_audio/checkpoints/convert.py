"""Convert a checkpoint, or one part of it, to another layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from stable_audio.checkpoints.diffusers import export_diffusers_part
from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.checkpoints.loading import load_reported
from stable_audio.checkpoints.parts import Part
from stable_audio.checkpoints.saving import check_target, export, refuse_transforms

ExportLayout = Literal["ours", "sat", "diffusers"]


def convert_checkpoint(
    source: str | Path,
    output: str | Path,
    *,
    layout: ExportLayout = "ours",
    part: Part = "model",
    config: Any = None,
    lenient: bool = False,
    use_ema: bool = True,
    dtype: torch.dtype | None = None,
) -> Path:
    """Read a checkpoint of any layout and write it, or one part of it, in `layout`.

    Args:
        source: a file, or the folder of a run or of a published model.
        output: file to write, or for "diffusers" a folder.
        config: as for `load_model`.
        lenient: as for `load_model`.
        use_ema: take the averaged weights where the file has both.
        dtype: cast floating weights; None leaves them as they are.

    Returns:
        The file or folder that was written.

    Raises:
        CheckpointError: the file cannot be read, or the layout cannot hold what it has; nothing is written.
    """
    if layout != "diffusers":
        check_target(output, layout)
    model, model_config, report = load_reported(source, config=config, lenient=lenient, use_ema=use_ema)
    written = model_config.as_dict()
    if layout != "diffusers":
        return export(
            model,
            output,
            config=written,
            layout=layout,
            dtype=dtype,
            part=part,
            transforms=report.transforms,
            weights=report.weights,
        )
    try:
        refuse_transforms(report.transforms)
        return export_diffusers_part(model, output, config=written, part=part, dtype=dtype)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
