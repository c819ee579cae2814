"""The parts of a model whose widths, ratios and channels the rules compare."""

from __future__ import annotations

from dataclasses import dataclass, field

from stable_audio.backbones.base import Backbone
from stable_audio.conditioning import Conditioner
from stable_audio.config.reporting.problems import Problem
from stable_audio.diffusion.objectives import Objective
from stable_audio.diffusion_autoencoder import DiffusionAutoencoder
from stable_audio.pretransforms import Autoencoder, Pretransform


@dataclass
class Facts:
    """Parts of a model on the meta device; a part that cannot be built is None, and `problems` says why.

    Attributes:
        widths: conditioner id -> features (or channels) that it returns, where known.
    """

    backbone: Backbone | None = None
    objective: Objective | None = None
    autoencoder: Autoencoder | DiffusionAutoencoder | None = None
    pretransform: Pretransform | None = None
    conditioners: dict[str, Conditioner] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def widths(self) -> dict[str, int]:
        return {key: conditioner.output_dim for key, conditioner in self.conditioners.items()}
