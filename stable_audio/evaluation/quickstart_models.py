"""Judge a model of the synthetic collection and baselines: its pretransform, no conditioning, no training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_audio.audio.io import save_audio
from stable_audio.config import ModelConfig, load_dataset_config
from stable_audio.evaluation.listening.verdict import Verdict
from stable_audio.evaluation.quickstart import QuickstartEvaluator
from stable_audio.evaluation.quickstart_requests import BASELINE_STEP, Requests
from stable_audio.evaluation.scores import Request, Scores
from stable_audio.factory import create_model_from_config
from stable_audio.inference import generate
from stable_audio.inference.generation.coding import decode_each
from stable_audio.model import DiffusionModel

TRAINED, RECONSTRUCTION, NULL, UNTRAINED = "trained", "reconstruction", "null conditioning", "untrained"
"""Labels: the model, its pretransform alone, the model without conditioning, and without training."""


@dataclass(frozen=True)
class JudgedModel:
    """The result of judging one of the models.

    Attributes:
        label: TRAINED, RECONSTRUCTION, NULL or UNTRAINED.
        scores: shares and counts over all requests.
        verdicts: one per clip.
        clips: the judged clips (k c n).
        requests: the request for each clip.
        cfg_scale: guidance weight; None: nothing was generated.
        steps: sampling steps; None: nothing was generated.
    """

    label: str
    scores: Scores
    verdicts: Sequence[Verdict]
    clips: Tensor
    requests: Sequence[Request]
    cfg_scale: float | None = None
    steps: int | None = None

    def figures(self) -> dict[str, Any]:
        """The scores, the settings of generation and the verdicts, as plain values."""
        generation = {} if self.steps is None else {"cfg_scale": self.cfg_scale, "steps": self.steps}
        rows = [
            {"prompt": request.prompt, "held_out": request.clip.held_out, **verdict.as_dict()}
            for request, verdict in zip(self.requests, self.verdicts)
        ]
        return {**self.scores.as_dict(), **generation, "per_clip": rows}

    def save(self, folder: Path, sample_rate: int) -> None:
        """Write every clip to a file named after its prompt."""
        folder.mkdir(parents=True, exist_ok=True)
        for number, (clip, request) in enumerate(zip(self.clips, self.requests)):
            slug = "".join(c if c.isalnum() else "_" for c in request.prompt)
            save_audio(folder / f"{number:03d}_{slug}.wav", clip, sample_rate)


def evaluator_for(model: DiffusionModel, dataset: str | None = None) -> QuickstartEvaluator:
    """An evaluator of clips of the model's format.

    Args:
        dataset: file of the synthetic dataset that it was trained on; None: the default one.

    Raises:
        ValueError: another kind of dataset.
    """
    entry = load_dataset_config(dataset).model_dump() if dataset is not None else {}
    if (kind := entry.get("dataset_type", "synthetic")) != "synthetic":
        raise ValueError(
            f"{dataset}: $.dataset_type: found '{kind}'; the measurement knows datasets of type 'synthetic'"
        )
    keys = ("lowest_pitch", "num_pitches", "held_out_share", "words", "seconds")
    told = {key: entry[key] for key in keys if key in entry}
    return QuickstartEvaluator(sample_rate=model.sample_rate, sample_size=model.sample_size, **told)


def judgements(
    model: DiffusionModel,
    config: ModelConfig,
    evaluator: QuickstartEvaluator,
    settings: Requests,
    *,
    baselines: bool = True,
) -> Iterator[JudgedModel]:
    """Judge the model and the baselines, each yielded as soon as it is done.

    Args:
        config: configuration of the model, which is built anew for the baseline without training.
        baselines: False judges the trained model alone.
    """
    yield _judged(TRAINED, model, evaluator, settings, settings.cfg_scale)
    if not baselines:
        return
    if model.pretransform is not None:
        yield _reconstruction(model, evaluator, settings)
    # With weight 0, guidance returns the unconditional branch alone.
    yield _judged(NULL, model, evaluator, settings, 0.0, step=BASELINE_STEP)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        untrained: Any = create_model_from_config(config).to(model.device).eval()
    # What is not trained is the backbone with its conditioners: latents mean what they mean to the model.
    untrained.pretransform = model.pretransform
    yield _judged(UNTRAINED, untrained, evaluator, settings, settings.cfg_scale, step=BASELINE_STEP)


def _judged(
    label: str,
    model: DiffusionModel,
    evaluator: QuickstartEvaluator,
    settings: Requests,
    cfg_scale: float,
    *,
    step: int = 1,
) -> JudgedModel:
    """Generate and score a clip for every `step`-th request."""
    requests = evaluator.requests(repeats=settings.repeats, step=step)
    clips = generate(
        model,
        [request.metadata() for request in requests],
        seeds=settings.seed,
        steps=settings.steps,
        cfg_scale=cfg_scale,
        sampler=settings.sampler,
        batch_size=settings.batch_size,
    )
    verdicts = evaluator.judge(clips, requests)
    scores = Scores.of(requests, verdicts)
    return JudgedModel(label, scores, verdicts, clips, requests, cfg_scale=cfg_scale, steps=settings.steps)


@torch.inference_mode()
def _reconstruction(model: DiffusionModel, evaluator: QuickstartEvaluator, settings: Requests) -> JudgedModel:
    """Score every BASELINE_STEP-th of the requested clips after encoding and decoding by the pretransform."""
    assert model.pretransform is not None
    originals = evaluator.originals(repeats=settings.repeats, step=BASELINE_STEP)
    originals = originals.expand(-1, model.audio_channels, -1)
    latents = [
        model.pretransform.encode(clip.to(model.device), noise=torch.zeros_like)
        for clip in originals.split(1)
    ]
    clips = decode_each(model, torch.cat(latents))
    requests = evaluator.requests(repeats=settings.repeats, step=BASELINE_STEP)
    verdicts = evaluator.judge(clips, requests)
    return JudgedModel(RECONSTRUCTION, Scores.of(requests, verdicts), verdicts, clips, requests)
