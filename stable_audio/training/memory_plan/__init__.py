"""How much memory a training run takes, and what fits a device: planned on shapes, before it starts."""

from __future__ import annotations

from stable_audio.training.memory_plan.choice import Choice, choice_of
from stable_audio.training.memory_plan.plan import Planner, TrainingPlan, plan_training, precision_on

__all__ = ["Choice", "Planner", "TrainingPlan", "choice_of", "plan_training", "precision_on"]
