"""The model that a run starts with: built, filled with weights, and refused when its latents mean nothing."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from stable_audio.checkpoints import LoadReport, load_pretrained, load_pretransform
from stable_audio.config import ModelConfig
from stable_audio.factory import create_model_from_config
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions

log = logging.getLogger(__name__)


def starting_model(config: ModelConfig, options: RunOptions, *, resumed: bool) -> nn.Module:
    """Build the model and load what the options name.

    Args:
        resumed: a training checkpoint will bring all weights.

    Raises:
        TrainingError: a learned pretransform would stay untrained.
        CheckpointError: a file does not fit.
    """
    torch.manual_seed(options.seed)  # initial weights depend on the seed and are the same on every process
    model = create_model_from_config(config)
    folding = options.remove_pretransform_weight_norm
    if folding == "pre_load":
        _fold(model)
    reports = [] if resumed else _load(model, options)
    if folding == "post_load":
        _fold(model)
    if not resumed:
        _refuse_untrained_pretransform(model, reports, options)
    return model


def _load(model: nn.Module, options: RunOptions) -> list[LoadReport]:
    reports = []
    for path, load in (
        (options.pretrained_ckpt_path, load_pretrained),
        (options.pretransform_ckpt_path, load_pretransform),
    ):
        if path:
            report = load(model, path, use_ema=options.use_ema_weights, partial=options.partial)
            log.info("%s", report)
            reports.append(report)
    return reports


def _fold(model: nn.Module) -> None:
    pretransform: Any = getattr(model, "pretransform", None)
    fold = getattr(pretransform, "remove_weight_norm", None)
    if fold is None:
        raise TrainingError(
            "--remove-pretransform-weight-norm: the model has no pretransform with weight norms"
        )
    fold()


def _refuse_untrained_pretransform(model: nn.Module, reports: list[LoadReport], options: RunOptions) -> None:
    pretransform: Any = getattr(model, "pretransform", None)
    if pretransform is None or not pretransform.needs_weights or pretransform.enable_grad:
        return
    if any(r.loaded_below("pretransform.") for r in reports):
        return
    text = "the pretransform is learned, but no weights were loaded for it: the model would learn noise"
    if not options.allow_untrained_pretransform:
        raise TrainingError(
            f"{text}. Give --pretransform-ckpt-path (or --pretrained-ckpt-path with a whole model); "
            "to train on random latents all the same, add --allow-untrained-pretransform"
        )
    log.warning("%s, as allowed by --allow-untrained-pretransform", text)
