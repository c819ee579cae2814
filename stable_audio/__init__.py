"""Stable Audio: train and run audio diffusion models described by one JSON file.

Names are resolved on first use, so that ``import stable_audio`` stays instant and ``--help`` does not
pay for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stable_audio.public import names_from

__version__ = "0.1.0"

_PUBLIC = {
    "load_config": "stable_audio.config",
    "create_model_from_config": "stable_audio.factory",
    "load_model": "stable_audio.checkpoints",
    "generate": "stable_audio.inference",
}
__all__ = ["__version__", "create_model_from_config", "generate", "load_config", "load_model"]

if TYPE_CHECKING:
    from stable_audio.checkpoints import load_model
    from stable_audio.config import load_config
    from stable_audio.factory import create_model_from_config
    from stable_audio.inference import generate


__getattr__ = names_from(__name__, _PUBLIC)


def __dir__() -> list[str]:
    return sorted(__all__)
