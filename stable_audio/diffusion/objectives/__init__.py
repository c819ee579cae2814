"""What the backbone predicts: a registry, OBJECTIVES."""

from stable_audio.diffusion.objectives.base import (
    Compared,
    DemoSchedule,
    Network,
    Objective,
    Scale,
    TrainingPoint,
    broadcast_like,
)
from stable_audio.diffusion.objectives.epsilon import EpsilonObjective
from stable_audio.diffusion.objectives.flow import RectifiedFlowObjective, RFDenoiserObjective
from stable_audio.diffusion.objectives.v import VObjective
from stable_audio.diffusion.objectives.x0 import X0Objective

OBJECTIVES: dict[str, type[Objective]] = {
    "v": VObjective,
    "epsilon": EpsilonObjective,
    "x0": X0Objective,
    "rectified_flow": RectifiedFlowObjective,
    "rf_denoiser": RFDenoiserObjective,
}

__all__ = [
    "OBJECTIVES",
    "Compared",
    "DemoSchedule",
    "EpsilonObjective",
    "Network",
    "Objective",
    "RFDenoiserObjective",
    "RectifiedFlowObjective",
    "Scale",
    "TrainingPoint",
    "VObjective",
    "X0Objective",
    "broadcast_like",
]
