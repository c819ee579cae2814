"""Sounds that a model renders before it is fine-tuned, to be trained on as well, so that it keeps them.

Prior preservation (DreamBooth: Ruiz et al., 2023, section 3.3), with the model's own latents as targets.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stable_audio.audio.atomic import atomic_write
from stable_audio.characters import readable_json
from stable_audio.inference.generation.generate import generate
from stable_audio.inference.rendering.job_lines import read_jobs
from stable_audio.inference.rendering.jobs import Job, check_values, complete
from stable_audio.model import DiffusionModel

KEPT_SEED = 1_000_000
"""First seed of kept sounds, far from those that people listen to."""

BATCH = 16
COMPLETE = "complete.json"


def kept_jobs(prompts: str | Path, count: int) -> list[Job]:
    """`count` sounds of the prompts of a file, in turn.

    Raises:
        ValueError: the file cannot be read, with every line that is wrong.
    """
    jobs = read_jobs(prompts)
    return [jobs[i % len(jobs)] for i in range(count)]


def check_kept(prompts: str | Path, count: int, model: DiffusionModel) -> None:
    """Raise ValueError, naming every line, if a model cannot render the prompts of a file.

    Args:
        model: may be without weights.
    """
    check_values(complete(kept_jobs(prompts, count), model, first_seed=KEPT_SEED), model)


def kept_folder(cache: Path, origin: str, jobs: Sequence[Job], sampling: Mapping[str, Any]) -> Path:
    """The folder of these sounds in the cache.

    Args:
        origin: identifies the weights of the model.
    """
    content = [origin, [job.conditioning for job in jobs], dict(sampling)]
    text = json.dumps(content, sort_keys=True, default=str)
    return cache / f"kept-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def is_complete(folder: Path) -> bool:
    """Whether a folder of the cache holds all of its sounds."""
    return (folder / COMPLETE).is_file()


def render_kept(
    model: DiffusionModel, jobs: Sequence[Job], folder: Path, sampling: Mapping[str, Any]
) -> None:
    """Render sounds as latents into `folder`: X.npy with X.json, which `pre_encoded` datasets read."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    whole = complete(jobs, model, first_seed=KEPT_SEED)
    scale = float(getattr(model.pretransform, "scale", 1.0))
    for start in range(0, len(whole), BATCH):
        part = whole[start : start + BATCH]
        latents = generate(
            model,
            [job.conditioning for job in part],
            seeds=[KEPT_SEED + start + i for i in range(len(part))],
            return_latents=True,
            **sampling,
        )
        for number, (job, clip) in enumerate(zip(part, latents), start=start):
            with atomic_write(folder / f"{number:05d}.npy") as temporary, open(temporary, "wb") as file:
                np.save(file, (clip * scale).numpy())
            with atomic_write(folder / f"{number:05d}.json") as temporary:
                temporary.write_text(readable_json(job.conditioning), encoding="utf-8")
    with atomic_write(folder / COMPLETE) as temporary:
        temporary.write_text(json.dumps({"sounds": len(whole)}), encoding="utf-8")
