"""The whole of a fine-tune in order: read, decide, write down, train, compare."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from stable_audio.checkpoints import load_model, read_checkpoint
from stable_audio.checkpoints.errors import NoConfigError
from stable_audio.checkpoints.loading import stored_model_config
from stable_audio.config import DatasetConfig, ModelConfig, load_config, load_dataset_config
from stable_audio.factory import create_model_from_config
from stable_audio.factory.clip_shape import clip_shape, metadata_check
from stable_audio.inference.devices import best_device
from stable_audio.inference.memory.errors import free_memory_of, is_out_of_memory
from stable_audio.inference.memory.reserve import readable_size
from stable_audio.inference.rendering.recipe import file_digest
from stable_audio.nn.checkpointing import in_words
from stable_audio.training.callbacks.estimate import duration
from stable_audio.training.errors import TrainingError
from stable_audio.training.finetune.cache import cache_latents
from stable_audio.training.finetune.clips import FolderClips, read_folder
from stable_audio.training.finetune.comparing import (
    PAGE_FOLDER,
    examples_of,
    sampling_of,
    write_comparison,
)
from stable_audio.training.finetune.decided import (
    FOLDER,
    Decided,
    latents_dataset,
    run_options,
    stored,
    write_json,
    write_sounds,
)
from stable_audio.training.finetune.fitting import (
    DoesNotFit,
    Fit,
    MemoryLayout,
    does_not_fit_after_all,
    fit,
    free_bytes,
    layouts,
    seconds_per_step,
)
from stable_audio.training.finetune.keeping import (
    check_kept,
    is_complete,
    kept_folder,
    kept_jobs,
    render_kept,
)
from stable_audio.training.finetune.request import FinetuneRequest
from stable_audio.training.finetune.section import demo_section, step_keys, training_section
from stable_audio.training.finetune.sizing import Size, optimizer_for, rate_of, size_for
from stable_audio.training.finetune.ways import lines, sentence, ways_that_fit
from stable_audio.training.from_files import train_from_files
from stable_audio.training.memory_plan.training_plan import NAMES
from stable_audio.training.options import RunOptions
from stable_audio.training.stopping import StopRequest
from stable_audio.wording import plural

Say = Callable[[str], None]
"""Takes one line of the report."""

SHOWN = 0.01
"""Least share of the memory of a part that the report names."""

KINDS = ("diffusion_cond", "diffusion_cond_inpaint", "diffusion_uncond")


@dataclass(frozen=True)
class _Base:
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


def prepare(request: FinetuneRequest, say: Say) -> Decided:
    """Decide everything, write it down, and report it line by line; an equal request finds it again.

    Raises:
        ValueError: why it cannot be done, in one sentence; subclasses of other modules included.
    """
    request = request.with_whole_paths()
    if request.overwrite:
        shutil.rmtree(request.folder / FOLDER, ignore_errors=True)
    found = stored(request.folder, request.deciding())
    if found is not None:
        for line in found.report:
            say(line)
        if (request.folder / "last.ckpt").exists():
            say(f"goes on      from the last checkpoint in {request.folder}")
        return found
    report: list[str] = []

    def note(line: str) -> None:
        report.append(line)
        say(line)

    decided = replace(_decide(request, note), report=report)
    decided.write()
    return decided


def train_decided(decided: Decided, *, overwrite: bool = False, stop: StopRequest | None = None) -> int:
    """Train as decided, from where an earlier run was stopped, if there is one; returns the exit status."""
    settings = {**decided.run, "overwrite": overwrite, "recover": not overwrite}
    return train_from_files(decided.dataset, model_config=decided.model, stop=stop, **settings)


def finetune(
    request: FinetuneRequest, say: Say, *, stop: StopRequest | None = None
) -> tuple[int, Path | None]:
    """Prepare, train and compare; returns the exit status and the page of the comparison.

    Raises:
        ValueError: as for `prepare`.
    """
    decided = prepare(request, say)
    status = train_decided(decided, overwrite=request.overwrite, stop=stop)
    if status:
        return status, None
    return 0, write_comparison(decided, device=best_device(request.device))


def _decide(request: FinetuneRequest, note: Say) -> Decided:
    device, folder = best_device(request.device), request.folder / FOLDER
    base = _base(request)
    clips = read_folder(
        request.data,
        sample_rate=base.config["sample_rate"],
        sample_size=base.config["sample_size"],
        channels=base.model.audio_channels,
        caption=request.caption,
        check=metadata_check(base.model),
    )
    for line in clips.lines(sample_rate=base.config["sample_rate"], channels=base.model.audio_channels):
        note(line)
    sounds = write_sounds(folder, clips)
    dataset, latents = _dataset(request, base, clips, sounds, device, note)
    write_json(folder / "dataset.json", dataset)

    conditional = base.model.conditioner is not None
    examples = examples_of(base.model, clips, request.prompts) if conditional else [{}] * 4
    sampling = sampling_of(base.stored, cfg_scale=request.cfg_scale, steps=request.sampling_steps)
    size = _size(request, base, clips)
    text_cache = _text_cache(
        request, base, [*(clip.metadata for clip in clips.clips), *examples], device, note
    )
    optimizer = optimizer_for(request.adapter, device)

    def config_for(micro: int, layout: MemoryLayout) -> ModelConfig:
        section = training_section(
            base.stored,
            size,
            optimizer=optimizer,
            micro_batch=micro,
            adapter=_adapter(request, size),
            gradient_checkpointing=layout.gradient_checkpointing,
            base_precision=layout.base_precision,
            text_cache=text_cache,
            demo=demo_section(base.stored, examples[:4], steps=size.steps) if request.demos else None,
        )
        section["pre_encoded"] = latents
        return load_config({**base.config, "training": section}, source_name=str(folder / "model.json"))

    _note_choices(base, size, optimizer, request, note)
    try:
        fitted = fit(
            config_for,
            size.batch,
            layouts(adapter=request.adapter, device=device),
            available=request.device_memory or free_bytes(device),
            device=device.type,
            precision=request.precision,
        )
        fitted, seconds = _tried(fitted, config_for, dataset, request, size, note)
    except DoesNotFit as error:
        raise _with_ways(error, base, device, folder, note) from error
    config = config_for(fitted.micro_batch, fitted.layout)
    write_json(folder / "model.json", config.as_dict())
    _note_fit(fitted, size, seconds, note)
    decided = Decided(folder, request.deciding(), _options(request, size, fitted), [], examples, sampling)
    _note_results(request, note)
    note(f"decided      in {folder}, as config files")
    note(f"to repeat    {decided.command}")
    return decided


def _with_ways(
    error: DoesNotFit, base: _Base, device: torch.device, folder: Path, note: Say
) -> TrainingError:
    """The error with what would fit, which is also reported line by line; writes the model file for it."""
    lowest = layouts(adapter="lora", device=device)[-1].base_precision
    ways = list(
        ways_that_fit(
            error.config, error.plan, adapter_base=lowest, length_multiple=base.model.length_multiple
        )
    )
    for line in lines(error.plan, ways):
        note(line)
    write_json(folder / "model.json", error.config.as_dict())
    note(f"files        {folder}, for train.py with a changed model.json")
    return TrainingError(f"{error}; {sentence(ways)}")


def _base(request: FinetuneRequest) -> _Base:
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
    return _Base(Path(path), values, {**known, **values}, model)


def _dataset(
    request: FinetuneRequest, base: _Base, clips: FolderClips, sounds: Path, device: torch.device, note: Say
) -> tuple[dict[str, Any], bool]:
    """The dataset file, and whether it holds latents."""
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


def _kept(request: FinetuneRequest, base: _Base, device: torch.device, note: Say) -> Path:
    assert request.keep is not None
    jobs = kept_jobs(request.keep, request.keep_clips)
    sampling = sampling_of(base.stored, cfg_scale=request.cfg_scale, steps=request.sampling_steps)
    folder = kept_folder(request.cache_folder, file_digest(base.path), jobs, sampling)
    if not is_complete(folder):
        model, _ = load_model(request.checkpoint, config=request.model_config, device=device)
        render_kept(model, jobs, folder, sampling)  # type: ignore[arg-type]
    note(f"kept         {plural(len(jobs), 'sound')} of the model itself, half of each batch: {folder}")
    return folder


def _size(request: FinetuneRequest, base: _Base, clips: FolderClips) -> Size:
    clip_seconds = base.config["sample_size"] / base.config["sample_rate"]
    pieces = sum(max(1.0, clip.seconds / clip_seconds) for clip in clips.clips)
    if request.keep is not None:
        pieces *= 2
    return size_for(
        len(clips.clips),
        pieces=pieces,
        base_rate=rate_of(base.stored.get("training")),
        adapter=request.adapter is not None,
        steps=request.steps,
        batch=request.batch_size,
        learning_rate=request.learning_rate,
        rank=request.rank,
    )


def _adapter(request: FinetuneRequest, size: Size) -> dict[str, Any] | None:
    if request.adapter is None:
        return None
    return {"adapter_type": request.adapter, "rank": size.rank, "alpha": size.rank}


def _text_cache(
    request: FinetuneRequest,
    base: _Base,
    items: Sequence[Mapping[str, Any]],
    device: torch.device,
    note: Say,
) -> str | None:
    """Folder for features of texts, with those of `items`, and of sounds to keep, in it; None where no frozen
    encoder reads them."""
    conditioner, folder = base.model.conditioner, request.cache_folder / "texts"
    if conditioner is None or not conditioner.cache_texts(folder):
        return None
    kept = [job.conditioning for job in kept_jobs(request.keep, request.keep_clips)] if request.keep else []
    for name, (read, there) in conditioner.read_texts_ahead([*items, *kept], device).items():
        note(f"texts        {read} read by the encoder of '{name}', {there} from the cache: {folder}")
    return str(folder)


def _options(request: FinetuneRequest, size: Size, fitted: Fit) -> dict[str, Any]:
    return run_options(
        name=request.folder.name,
        save_dir=str(request.folder.parent),
        pretrained_ckpt_path=str(request.checkpoint),
        accum_batches=fitted.accumulation,
        seed=request.seed,
        num_workers=request.num_workers,
        precision=request.precision,
        accelerator={"cuda": "gpu"}.get(best_device(request.device).type, best_device(request.device).type),
        devices="1",
        checkpoint_every=size.steps,  # 0 would keep the clock from saving, too
        checkpoint_minutes=5.0,
        recover=True,
    )


def _tried(
    fitted: Fit,
    config_for: Callable[[int, MemoryLayout], ModelConfig],
    dataset: Mapping[str, Any],
    request: FinetuneRequest,
    size: Size,
    note: Say,
) -> tuple[Fit, float]:
    """A batch that fits in fact, and seconds per optimizer step."""
    data: DatasetConfig = load_dataset_config(dict(dataset))
    while True:
        config = config_for(fitted.micro_batch, fitted.layout)
        options = RunOptions.from_section(config.training, **_options(request, size, fitted))
        try:
            return fitted, seconds_per_step(config, data, options)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            free_memory_of(error)
            if fitted.micro_batch == 1:
                raise does_not_fit_after_all(
                    config, options, device=best_device(request.device).type
                ) from None
        smaller = next(n for n in range(fitted.micro_batch // 2, 0, -1) if fitted.micro_batch % n == 0)
        factor = fitted.micro_batch // smaller
        note(f"memory       {plural(fitted.micro_batch, 'clip')} at once do not fit after all: {smaller}")
        fitted = replace(fitted, micro_batch=smaller, accumulation=fitted.accumulation * factor)


def _note_choices(base: _Base, size: Size, optimizer: str, request: FinetuneRequest, note: Say) -> None:
    _, source = step_keys(base.stored)
    what = (
        "the model itself" if request.adapter is None else f"an adapter, {request.adapter}, rank {size.rank}"
    )
    note(f"training     {what}; objective and noise levels as in {source}")
    note(
        f"             {plural(size.steps, 'step')} of {plural(size.batch, 'clip')}, {optimizer}, "
        f"learning rate {size.learning_rate:g}, rising for {plural(size.warm_up, 'step')}"
    )
    if request.keep is None and base.model.conditioner is not None:
        note("forgetting   other prompts may change as well; --keep FILE.jsonl names some that are not to")


def _note_fit(fitted: Fit, size: Size, seconds: float, note: Say) -> None:
    greatest = sorted(fitted.parts.items(), key=lambda part: -part[1])
    parts = [f"{NAMES[name]} {readable_size(n)}" for name, n in greatest if n >= SHOWN * fitted.total]
    planned, free = readable_size(fitted.total), readable_size(int(fitted.available))
    note(f"memory       about {planned} of {free}: {', '.join(parts)}")
    used = [f"{plural(fitted.micro_batch, 'clip')} at once"]
    used += [f"{fitted.accumulation} batches per step"] * (fitted.accumulation > 1)
    used += [recomputation] if (recomputation := in_words(fitted.layout.gradient_checkpointing)) else []
    used += [f"the model in {fitted.layout.base_precision}"] if fitted.layout.base_precision else []
    note(f"             {', '.join(used)}")
    note(f"time         {duration(seconds * size.steps)} of training ({seconds:.2f} s per step, measured)")


def _note_results(request: FinetuneRequest, note: Say) -> None:
    what = "the model" if request.adapter is None else "the adapter"
    pages = ["demos/index.html"] * request.demos + [f"{PAGE_FOLDER}/index.html"]
    note(f"results      in {request.folder}")
    note(f"             last.safetensors, {what}; to listen to: {' and '.join(pages)}")
