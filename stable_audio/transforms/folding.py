"""Weight norms of the pretransform, folded into its weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from stable_audio.nn.unfilled import is_unfilled
from stable_audio.pretransforms.fingerprint import pretransform_hash
from stable_audio.transforms.base import Transform


class FoldPretransformNorms(Transform):
    """Fold the weight norms of the pretransform: same output, plain `weight` keys, faster.

    The pretransform remembers the hash of its weights before.
    """

    names_weights = False  # loading folds what is folded in a file

    def apply(self, model: nn.Module) -> None:
        pretransform: Any = getattr(model, "pretransform", None)
        loaded = pretransform is not None and not is_unfilled(pretransform)
        before = pretransform_hash(pretransform) if loaded else None
        fold_pretransform(model)
        pretransform.folded_from = before


def fold_pretransform(model: nn.Module) -> None:
    """Fold the weight norms of the pretransform, whose weights are yet to be loaded.

    Raises:
        ValueError: there are none.
    """
    fold = getattr(getattr(model, "pretransform", None), "remove_weight_norm", None)
    if fold is None:
        raise ValueError("the model has no pretransform with weight norms")
    fold()
