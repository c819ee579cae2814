"""What happens to a model between its weights and its training, by name.

`training.transforms` of a config lists them; a run applies them in order and records them in its files.
"""

from __future__ import annotations

from stable_audio.transforms.adapters import ADAPTERS, Adapters
from stable_audio.transforms.base import Transform
from stable_audio.transforms.folding import FoldPretransformNorms
from stable_audio.transforms.freezing import Freeze

TRANSFORMS: dict[str, type[Transform]] = {
    "freeze": Freeze,
    "fold_pretransform_norms": FoldPretransformNorms,
    ADAPTERS: Adapters,
}

__all__ = ["TRANSFORMS", "Transform"]
