"""What happens to a model between its weights and its training: a list, applied in order and recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from stable_audio.pretransforms.fingerprint import pretransform_hash
from stable_audio.training.compiling import compile_networks
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Transform:
    """A change of a model in place.

    Attributes:
        name: as `run.json` records it.
        apply: makes the change.
    """

    name: str
    apply: Callable[[nn.Module], object]


def transforms_for(options: RunOptions, *, resumed: bool) -> list[Transform]:
    """The transforms that the options of a run ask for, in their order.

    Args:
        resumed: the weights are those of a training checkpoint, which has norms folded already.
    """
    folds = options.remove_pretransform_weight_norm == "post_load" and not resumed
    asked = (
        (folds, Transform("fold_pretransform_norms", fold_loaded_pretransform)),
        (options.compile, Transform("compile", compile_networks)),
    )
    return [transform for wanted, transform in asked if wanted]


def transform(model: nn.Module, transforms: Sequence[Transform]) -> list[str]:
    """Apply `transforms` to `model` in order; returns their names.

    Raises:
        TrainingError: the model has nothing that one of them changes.
    """
    for each in transforms:
        each.apply(model)
        log.info("the model is changed before training: %s", each.name)
    return [each.name for each in transforms]


def fold_pretransform(model: nn.Module) -> None:
    """Fold the weight norms of the pretransform into its weights.

    Raises:
        TrainingError: there are none.
    """
    pretransform: Any = getattr(model, "pretransform", None)
    fold = getattr(pretransform, "remove_weight_norm", None)
    if fold is None:
        raise TrainingError(
            "--remove-pretransform-weight-norm: the model has no pretransform with weight norms"
        )
    fold()


def fold_loaded_pretransform(model: nn.Module) -> None:
    """The same with weights that were loaded: it remembers the hash of those before.

    Raises:
        TrainingError: there are no norms.
    """
    pretransform: Any = getattr(model, "pretransform", None)
    before = None if pretransform is None else pretransform_hash(pretransform)
    fold_pretransform(model)
    pretransform.folded_from = before
