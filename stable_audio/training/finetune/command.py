"""The whole of a fine-tune in order: read, decide, write down, train, compare."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stable_audio.config import DatasetConfig, ModelConfig, load_config, load_dataset_config
from stable_audio.factory.clip_shape import metadata_check
from stable_audio.inference.devices import best_device
from stable_audio.inference.memory.errors import free_memory_of, is_out_of_memory
from stable_audio.training.errors import TrainingError
from stable_audio.training.finetune.base_model import FinetuneBase, read_base
from stable_audio.training.finetune.clips import FolderClips, read_folder
from stable_audio.training.finetune.comparing import (
    examples_of,
    sampling_of,
    write_comparison,
)
from stable_audio.training.finetune.decided import (
    FOLDER,
    Decided,
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
from stable_audio.training.finetune.report import Say, note_choices, note_fit, note_results
from stable_audio.training.finetune.request import FinetuneRequest
from stable_audio.training.finetune.section import demo_section, training_section
from stable_audio.training.finetune.sizing import Size, optimizer_for, rate_of, size_for
from stable_audio.training.finetune.training_data import dataset_for, text_cache_for
from stable_audio.training.finetune.ways import lines, sentence, ways_that_fit
from stable_audio.training.from_files import train_from_files
from stable_audio.training.options import RunOptions
from stable_audio.training.processes.stopping import StopRequest
from stable_audio.wording import plural


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
        _refuse_other_memory(request, found)
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


def _refuse_other_memory(request: FinetuneRequest, found: Decided) -> None:
    """Refuse a limit of memory for which a plan was not made. A run that has begun goes on as it was planned,
    on whatever device."""
    begun = (request.folder / "last.ckpt").exists()
    if begun or request.device_memory in (None, found.device_memory):
        return
    limit = "what was free" if found.device_memory is None else f"{found.device_memory / 2**30:g} GiB"
    raise TrainingError(
        f"{request.folder}: is planned for another --device-memory ({limit}); plan it anew with --overwrite, "
        "or choose another --out"
    )


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
    base = read_base(request)
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
    dataset, latents = dataset_for(request, base, clips, sounds, device, note)
    write_json(folder / "dataset.json", dataset)

    conditional = base.model.conditioner is not None
    examples = examples_of(base.model, clips, request.prompts) if conditional else [{}] * 4
    sampling = sampling_of(base.stored, cfg_scale=request.cfg_scale, steps=request.sampling_steps)
    size = _size(request, base, clips)
    text_cache = text_cache_for(
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

    note_choices(base, size, optimizer, request, note)
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
    note_fit(fitted, size, seconds, note)
    options = _options(request, size, fitted)
    decided = Decided(
        folder, request.deciding(), options, [], examples, sampling, device_memory=request.device_memory
    )
    note_results(request, note)
    note(f"decided      in {folder}, as config files")
    note(f"to repeat    {decided.command}")
    return decided


def _with_ways(
    error: DoesNotFit, base: FinetuneBase, device: torch.device, folder: Path, note: Say
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


def _size(request: FinetuneRequest, base: FinetuneBase, clips: FolderClips) -> Size:
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
