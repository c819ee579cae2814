"""Load a model for rendering, with its origin for the recipes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stable_audio.checkpoints import load_model, resolve
from stable_audio.config import ModelConfig
from stable_audio.inference.generation.away_from import check_guide
from stable_audio.inference.memory.answer import answering_loading
from stable_audio.inference.precision import AUTO, dtype_for, place
from stable_audio.inference.rendering.recipe import InputFile
from stable_audio.model import DiffusionModel


@dataclass(frozen=True)
class RenderModel:
    """A model and its origin; see `Recipe`.

    Attributes:
        guide: a weaker model to steer away from.
        guide_file: its file.
    """

    model: DiffusionModel
    config: dict[str, Any]
    checkpoint: InputFile
    pretransform: InputFile | None
    use_ema: bool
    dtype: str
    guide: DiffusionModel | None = None
    guide_file: InputFile | None = None


def load_render_model(
    checkpoint: str | Path,
    *,
    config: Any = None,
    pretransform: str | Path | None = None,
    lenient: bool = False,
    use_ema: bool = True,
    dtype: str = AUTO,
    device: torch.device | str = "cpu",
    offload: bool = False,
    compiled: bool = False,
    check: Callable[[DiffusionModel, str], None] | None = None,
    guide: str | Path | None = None,
) -> RenderModel:
    """Load a diffusion model, ready to generate.

    Args:
        checkpoint: as for `load_model`.
        config: as for `load_model`.
        pretransform: as for `load_model`.
        lenient: as for `load_model`.
        use_ema: as for `load_model`.
        dtype: as for `place`.
        device: as for `place`.
        offload: as `in_turn` of `place`.
        compiled: as for `place`.
        check: called with the model, before its weights are converted, and the name of its file; raises
            ValueError if it is the wrong one.
        guide: file of a weaker model of the same latents, to steer away from; it is placed like the model.

    Raises:
        ValueError: the model is an autoencoder, which does not generate by itself; or the guide cannot guide
            it.
        OutOfMemory: the device has too little memory for the weights; the message says what fits.
    """
    dtype = dtype_for(dtype, device)
    path = resolve(checkpoint, use_ema=use_ema)
    separate = resolve(pretransform) if pretransform is not None else None
    model, model_config = _diffusion_model(
        path, config=config, lenient=lenient, use_ema=use_ema, pretransform=separate
    )
    guide_path = None if guide is None else resolve(guide, use_ema=use_ema)
    weaker = None
    if guide_path is not None:
        weaker, _ = _diffusion_model(guide_path, use_ema=use_ema, pretransform=separate)
        try:
            check_guide(weaker, model)
        except ValueError as error:
            raise ValueError(f"{guide_path}: {error}") from error
    if check is not None:
        check(model, path.name)
    with answering_loading(model, torch.device(device), offload=offload):
        place(model, dtype=dtype, device=device, in_turn=offload, compiled=compiled)
        if weaker is not None:
            place(weaker, dtype=dtype, device=device, in_turn=offload, compiled=compiled)
    inner = InputFile.of(separate) if separate is not None else None
    return RenderModel(
        model,
        model_config.as_dict(),
        InputFile.of(path),
        inner,
        use_ema,
        dtype,
        guide=weaker,
        guide_file=None if guide_path is None else InputFile.of(guide_path),
    )


def _diffusion_model(path: Path, **options: Any) -> tuple[DiffusionModel, ModelConfig]:
    model, config = load_model(path, **options)
    if not isinstance(model, DiffusionModel):
        raise ValueError(
            f"{path}: holds a model of type {config.model_type}, which does not generate by itself; "
            "`stable-audio reconstruct` lets you hear what it makes of sounds"
        )
    return model, config
