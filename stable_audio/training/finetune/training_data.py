"""What a fine-tune trains on, computed once: latents of the folder, sounds to keep, features of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from stable_audio.checkpoints import load_model
from stable_audio.config import load_config, load_dataset_config
from stable_audio.factory.clip_shape import clip_shape
from stable_audio.inference.rendering.recipe import file_digest
from stable_audio.training.errors import TrainingError
from stable_audio.training.finetune.base_model import FinetuneBase
from stable_audio.training.finetune.cache import cache_latents
from stable_audio.training.finetune.clips import FolderClips
from stable_audio.training.finetune.comparing import sampling_of
from stable_audio.training.finetune.decided import latents_dataset
from stable_audio.training.finetune.keeping import (
    check_kept,
    is_complete,
    kept_folder,
    kept_jobs,
    render_kept,
)
from stable_audio.training.finetune.report import Say
from stable_audio.training.finetune.request import FinetuneRequest
from stable_audio.wording import plural


def dataset_for(
    request: FinetuneRequest,
    base: FinetuneBase,
    clips: FolderClips,
    sounds: Path,
    device: torch.device,
    note: Say,
) -> tuple[dict[str, Any], bool]:
    """The dataset file, and whether it holds latents, which are encoded now where they are not cached.

    Args:
        request: what was asked for.
        base: the model.
        clips: of the folder.
        sounds: the dataset file of the clips as sound.
        device: where sounds are encoded and rendered.
        note: takes each line of the report.

    Raises:
        TrainingError: sounds of the model are to be kept, but it has no latents.
    """
    if base.model.pretransform is None:
        if request.keep is not None:
            raise TrainingError(
                "--keep needs a model of latents, but this one works on sound itself; leave it out"
            )
        return load_dataset_config(str(sounds)).as_dict(), False
    if request.keep is not None:  # before the sounds are encoded, which takes long
        check_kept(request.keep, request.keep_clips, base.model)
    shape = clip_shape(load_config(base.config), base.model)
    size, ratio = shape["sample_size"], shape["downsampling_ratio"]
    longer = clips.longest * shape["sample_rate"] > size
    made = cache_latents(
        sounds,
        clips.clips,
        request.cache_folder,
        checkpoint=request.checkpoint,
        model_config=request.model_config,
        crop=None if longer else size,
        device=device,
    )
    there = len(clips.clips) - made.encoded
    note(f"latents      {plural(made.encoded, 'sound')} encoded, {there} read from the cache: {made.folder}")
    for path, reason in made.rejected:
        note(f"left out     {path}: {reason}")
    folders = [("sounds", made.folder, 1.0)]
    if request.keep is not None:
        kept = _kept(request, base, device, note)
        folders.append(("kept", kept, round(len(clips.clips) / request.keep_clips, 6)))
    return latents_dataset(folders, crop_frames=size // ratio if longer else None, random_crop=longer), True


def _kept(request: FinetuneRequest, base: FinetuneBase, device: torch.device, note: Say) -> Path:
    assert request.keep is not None
    jobs = kept_jobs(request.keep, request.keep_clips)
    sampling = sampling_of(base.stored, cfg_scale=request.cfg_scale, steps=request.sampling_steps)
    folder = kept_folder(request.cache_folder, file_digest(base.path), jobs, sampling)
    if not is_complete(folder):
        model, _ = load_model(request.checkpoint, config=request.model_config, device=device)
        render_kept(model, jobs, folder, sampling)  # type: ignore[arg-type]
    note(f"kept         {plural(len(jobs), 'sound')} of the model itself, half of each batch: {folder}")
    return folder


def text_cache_for(
    request: FinetuneRequest,
    base: FinetuneBase,
    items: Sequence[Mapping[str, Any]],
    device: torch.device,
    note: Say,
) -> str | None:
    """Folder for features of texts, with those of `items`, and of sounds to keep, in it; None where no frozen
    encoder reads them.

    Args:
        request: what was asked for.
        base: the model.
        items: metadata of clips and of examples.
        device: where the encoders run.
        note: takes each line of the report.
    """
    conditioner, folder = base.model.conditioner, request.cache_folder / "texts"
    if conditioner is None or not conditioner.cache_texts(folder):
        return None
    kept = [job.conditioning for job in kept_jobs(request.keep, request.keep_clips)] if request.keep else []
    for name, (read, there) in conditioner.read_texts_ahead([*items, *kept], device).items():
        note(f"texts        {read} read by the encoder of '{name}', {there} from the cache: {folder}")
    return str(folder)
