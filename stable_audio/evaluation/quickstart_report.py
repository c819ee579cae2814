"""Evaluate the checkpoint of a quickstart model against its goals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from stable_audio.audio.json_files import write_json
from stable_audio.checkpoints import load_model
from stable_audio.evaluation.quickstart_goals import Goals, missed_goals
from stable_audio.evaluation.quickstart_models import (
    NULL,
    RECONSTRUCTION,
    TRAINED,
    UNTRAINED,
    JudgedModel,
    evaluator_for,
    judgements,
)
from stable_audio.evaluation.quickstart_requests import Requests

FIGURES = "figures.json"


def evaluate_quickstart(
    checkpoint: str | Path,
    *,
    dataset: str | None = None,
    requests: Requests | None = None,
    goals: Goals | None = None,
    baselines: bool = True,
    out: Path | None = None,
    device: torch.device | str = "cpu",
    report: Callable[[JudgedModel], None] = lambda judged: None,
) -> list[str]:
    """Generate the clips of all requests, judge them, and return one phrase for each goal that is missed.

    Args:
        checkpoint: as for `load_model`.
        dataset: file of the synthetic dataset that the model was trained on; None: the default one.
        requests: what is generated, and how; None: the defaults.
        goals: what the model has to reach; None: the defaults.
        baselines: False judges the trained model alone.
        out: folder for the clips of the trained model, and for FIGURES with the results of all models.
        report: called with each model once it is judged.
    """
    goals, requests = goals or Goals(), requests or Requests()
    model: Any
    model, config = load_model(checkpoint, device=device)
    evaluator = evaluator_for(model, dataset)
    judged = []
    for one in judgements(model, config, evaluator, requests, baselines=baselines):
        report(one)
        judged.append(one)
        if one.label == TRAINED and out is not None:
            one.save(out, model.sample_rate)
    if out is not None:
        write_json(out / FIGURES, {one.label: one.figures() for one in judged})
    return missed_goals(
        judged,
        goals,
        trained=TRAINED,
        reconstruction=RECONSTRUCTION,
        baselines=(NULL, UNTRAINED),
    )
