"""Before and after: the same prompts from the same noise, and the loss by noise level over time."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from stable_audio.adapters import AdapterUse, read_adapter, with_adapters
from stable_audio.audio.demo_page import DemoClip, DemoStep, write_demo_page
from stable_audio.audio.demo_page.clips import save_clip
from stable_audio.audio.plots import save_curves
from stable_audio.checkpoints import load_model
from stable_audio.inference.generation.generate import generate
from stable_audio.inference.rendering.jobs import Job, complete, needed_ids
from stable_audio.model import DiffusionModel
from stable_audio.training.finetune.clips import FolderClips
from stable_audio.training.finetune.decided import Decided, write_json
from stable_audio.training.record.curves import LARGEST, metric_rows

log = logging.getLogger(__name__)

PAGE_FOLDER = "before_and_after"
STRENGTHS = (0.0, 0.5, 1.0)
EXAMPLES = 4
"""Captions of the data that are compared, besides prompts that are asked for."""

POINTS = 12
"""Of each curve of the loss: means of as many equal parts of the run."""

_LOSS, _LEVEL = "train/loss", "model/loss_all_"


def examples_of(model: DiffusionModel, clips: FolderClips, prompts: Sequence[str]) -> list[dict[str, Any]]:
    """Conditioning of the sounds to compare: captions from all over the data, then `prompts`."""
    chosen = [clips.clips[round(i * (len(clips.clips) - 1) / (EXAMPLES - 1))] for i in range(EXAMPLES)]
    ids = set(needed_ids(model))
    examples = []
    for clip in {clip.path: clip for clip in chosen}.values():
        values = {key: value for key, value in clip.metadata.items() if key in ids}
        whole = {"seconds_start": 0, "seconds_total": math.ceil(clip.seconds)}
        examples.append({**{key: value for key, value in whole.items() if key in ids}, **values})
    asked = [{**examples[0], "prompt": prompt} for prompt in prompts]
    return [*examples, *asked]


def sampling_of(
    config: Mapping[str, Any], *, cfg_scale: float | None = None, steps: int | None = None
) -> dict[str, Any]:
    """How sounds are sampled: as asked, else as the model's own demos, else by its defaults.

    Args:
        config: the model file of the model itself.
    """
    demo = (config.get("training") or {}).get("demo") or {}
    scales = demo.get("demo_cfg_scales") or [None]
    values = {
        "cfg_scale": cfg_scale if cfg_scale is not None else scales[-1],
        "steps": steps if steps is not None else demo.get("demo_steps"),
        "sampler": demo.get("demo_sampler"),
    }
    return {key: value for key, value in values.items() if value is not None}


def write_comparison(decided: Decided, *, device: torch.device) -> Path:
    """Render the examples before and after, draw the loss, and write the page; returns it.

    Before is the model as it was; after is the model with the adapter at each strength, or the trained model.
    """
    run = decided.folder.parent
    folder = run / PAGE_FOLDER
    folder.mkdir(exist_ok=True)
    clips: list[DemoClip] = []
    for column, model in _models(decided, run / "last.safetensors", device):
        rate = model.sample_rate
        jobs = complete([Job(dict(example)) for example in decided.examples], model)
        sounds = generate(model, [job.conditioning for job in jobs], batch_size=4, **decided.sampling)
        for number, (job, sound) in enumerate(zip(jobs, sounds)):
            row = str(job.conditioning.get("prompt", f"seed {number}"))
            audio = sound[:, : round((job.seconds or math.inf) * rate)] if job.seconds else sound
            name = f"{number:02d}_{column.replace(' ', '_')}.wav"
            clips.append(save_clip(folder / name, audio, rate, row=row, column=column))
    shown = DemoStep(clips=clips, pictures=_pictures(folder, run / "metrics.csv"))
    return write_demo_page(folder, f"Before and after: {run.name}", [shown])


def _models(decided: Decided, trained: Path, device: torch.device) -> Iterator[tuple[str, DiffusionModel]]:
    """(column, model), one after the other, so that no more than one is in memory."""
    request = decided.request
    base: Any = load_model(request["checkpoint"], config=request["model_config"], device=device)[0]
    if request["adapter"] is None:
        yield "before", base
        del base
        yield "after", load_model(trained, device=device)[0]  # type: ignore[misc]
        return
    adapter = read_adapter(trained)
    for strength in STRENGTHS:
        name = f"strength {strength:g}"
        yield name, with_adapters(base, [AdapterUse(adapter=adapter, strength=strength)])


def _pictures(folder: Path, metrics: Path) -> list[str]:
    """Draw the loss over steps; returns the names of the pictures in `folder`."""
    curves = loss_curves(metrics)
    write_json(folder / "loss.json", curves)
    try:
        if curves:
            save_curves(folder / "loss.png", curves, across="step", up="loss", legend="noise level (sigma)")
            return ["loss.png"]
    except ImportError as error:
        log.warning("no picture of the loss: %s", error)
    return []


def loss_curves(metrics: str | Path, *, points: int = POINTS) -> dict[str, list[tuple[float, float]]]:
    """Means of the loss over equal parts of a run, for all noise levels and for each range of them.

    Args:
        metrics: `metrics.csv` of a run.
        points: parts of the run.

    Returns:
        "all" and the ranges ("0.0 to 0.1", ...) -> (middle step, mean loss), as far as measured.
    """
    values: dict[str, list[tuple[int, float]]] = {}
    for row in metric_rows(Path(metrics)):
        for column, text in row.items():
            if text and (column == _LOSS or str(column).startswith(_LEVEL)):
                try:
                    values.setdefault(column, []).append((int(float(row["step"])), float(text)))
                except (ValueError, OverflowError, TypeError):  # a line that a crash has damaged
                    continue
    last = max((step for pairs in values.values() for step, _ in pairs), default=0)
    width = max(1.0, last / points)
    return {
        _name(column): _means(values[column], width)
        for column in sorted(values, key=lambda column: (column != _LOSS, column))
    }


def _means(pairs: Sequence[tuple[int, float]], width: float) -> list[tuple[float, float]]:
    parts: dict[int, list[float]] = {}
    for step, value in pairs:
        if abs(value) < LARGEST:  # False for NaN
            parts.setdefault(int((step - 1) / width), []).append(value)
    return [(round((part + 0.5) * width, 2), sum(v) / len(v)) for part, v in sorted(parts.items())]


def _name(column: str) -> str:
    if column == _LOSS:
        return "all"
    low = float(column.removeprefix(_LEVEL))
    return f"{low:.1f} to {low + 0.1:.1f}"
