"""Weights with which no run can start: no numbers, or a pretransform that is untrained or another one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import nn

from stable_audio.checkpoints import (
    LoadReport,
)
from stable_audio.config import ModelConfig
from stable_audio.pretransforms.fingerprint import pretransform_hash
from stable_audio.training.errors import TrainingError
from stable_audio.training.guards.finite_values import not_finite_among
from stable_audio.training.options import RunOptions
from stable_audio.wording import plural

log = logging.getLogger(__name__)


def refuse_useless_weights(
    model: nn.Module, config: ModelConfig, options: RunOptions, reports: list[LoadReport]
) -> None:
    """Raise TrainingError for weights with which a training would learn nothing, or look like bad data.

    Args:
        model: with the weights that were loaded.
        reports: of what was loaded.
    """
    _refuse_no_numbers(model, reports)
    _refuse_untrained_sounds(model, reports, options)
    _refuse_untrained_pretransform(model, reports, options)
    _refuse_another_pretransform(model, config, reports)


def _refuse_no_numbers(model: nn.Module, reports: Sequence[LoadReport]) -> None:
    """Raise TrainingError for stored weights that no training can begin with: it would look like bad data."""
    sources = {key: report.source for report in reports for key in report.loaded}
    loaded = ((key, value.detach()) for key, value in model.named_parameters() if key in sources)
    if broken := not_finite_among(loaded):
        raise TrainingError(
            f"{sources[broken[0]]}: its weights hold values that are not finite, in {broken[0]}; take "
            "another checkpoint of that run, from before they broke"
        )


def _refuse_untrained_pretransform(model: nn.Module, reports: list[LoadReport], options: RunOptions) -> None:
    pretransform: Any = getattr(model, "pretransform", None)
    if pretransform is None or not pretransform.needs_weights or pretransform.enable_grad:
        return
    missing = _missing_weights(model, reports)
    if not missing:
        return
    text = "the pretransform is learned, but no weights were loaded for it: the model would learn noise"
    if _loaded(reports):
        text = (
            f"the pretransform is learned, but {plural(len(missing), 'weight', 'were')} not loaded "
            f"({missing[0]}, ...): the model would learn noise"
        )
    if not options.allow_untrained_pretransform:
        raise TrainingError(
            f"{text}. Name them by 'path' in $.model.pretransform, or give --pretransform-ckpt-path (or "
            "--pretrained-ckpt-path with a whole model); to train on random latents all the same, add "
            "--allow-untrained-pretransform"
        )
    log.warning("%s, as allowed by --allow-untrained-pretransform", text)


def _refuse_untrained_sounds(model: nn.Module, reports: list[LoadReport], options: RunOptions) -> None:
    """Conditioners that encode sounds with a learned pretransform of their own need its weights."""
    conditioners: Any = getattr(getattr(model, "conditioner", None), "conditioners", {})
    for key, conditioner in conditioners.items():
        inner = getattr(conditioner, "pretransform", None)
        if inner is None or inner is getattr(model, "pretransform", None):
            continue
        prefix = f"conditioner.conditioners.{key}.pretransform."
        if not inner.needs_weights or inner.enable_grad or any(r.loaded_below(prefix) for r in reports):
            continue
        text = f"the pretransform of the conditioner '{key}' is learned, but no weights were loaded for it"
        if not options.allow_untrained_pretransform:
            raise TrainingError(
                f"{text}: it would encode sounds as noise. Name them by pretransform_ckpt_path, or "
                "add --allow-untrained-pretransform"
            )
        log.warning("%s, as allowed by --allow-untrained-pretransform", text)


def _refuse_another_pretransform(model: nn.Module, config: ModelConfig, reports: list[LoadReport]) -> None:
    expected = getattr(getattr(config.model, "pretransform", None), "hash", None)
    if expected is None or not _loaded(reports):
        return
    pretransform: Any = model.pretransform
    if (actual := pretransform_hash(pretransform)) != expected:
        raise TrainingError(
            f"$.model.pretransform.hash: found {expected}, but the loaded weights have the hash {actual}; "
            "give the file with the right weights, or remove the key"
        )


def _loaded(reports: list[LoadReport]) -> bool:
    """Whether weights of the pretransform were loaded, not counting a pretransform inside it."""
    inner = "pretransform.model.pretransform."
    return any(r.loaded_below("pretransform.") > r.loaded_below(inner) for r in reports)


def _missing_weights(model: nn.Module, reports: list[LoadReport]) -> list[str]:
    """Weights of the pretransform that were not loaded; those of one inside it follow from formulas."""
    inner = "pretransform.model.pretransform."
    loaded = {key for report in reports for key in report.loaded}
    own = [k for k in model.state_dict() if k.startswith("pretransform.") and not k.startswith(inner)]
    return [k for k in own if k not in loaded]
