"""What clips are steered away from: other conditioning, and a weaker model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from stable_audio.diffusion.processes import Process
from stable_audio.inference.generation.settings import Sampling
from stable_audio.model import DiffusionModel
from stable_audio.types import Metadata


@dataclass(frozen=True, kw_only=True)
class AwayFrom:
    """What clips are steered away from.

    Attributes:
        negative_conditioning: conditioning, one dict for all clips or one per clip; absent keys are taken
            from the conditioning. It replaces the slots that `negative_slots` name: cross-attention only
            unless they do, as in stable-audio-tools.
        guide: a weaker model of the same latents and objective, such as an earlier checkpoint or a smaller
            backbone, by the weight `guide_scale` (auto-guidance, Karras et al. 2024). It reads the same
            conditioning through its own conditioners.
    """

    negative_conditioning: Metadata | Sequence[Metadata] | None = None
    guide: DiffusionModel | None = None

    def negatives(self, items: Sequence[Metadata]) -> list[Metadata] | None:
        """The negative conditioning of each clip, whole; None without any.

        Raises:
            ValueError: there are more or fewer than clips.
        """
        negative = self.negative_conditioning
        if negative is None:
            return None
        rows = [negative] * len(items) if isinstance(negative, Mapping) else list(negative)
        if len(rows) != len(items):
            raise ValueError(f"found {len(rows)} negative conditionings for {len(items)} clips")
        return [{**item, **other} for item, other in zip(items, rows)]

    def check(self, model: DiffusionModel, sampling: Sampling) -> None:
        """Raise ValueError if the guide cannot guide the model, or if it or its weight is missing."""
        if self.guide is None:
            if sampling.guide_scale is not None:
                raise ValueError("guide_scale is the weight of a weaker model: give one as guide")
            return
        if sampling.guide_scale is None:
            raise ValueError("a guide has no effect without its weight: give guide_scale, such as 2")
        check_guide(self.guide, model)


def check_guide(guide: DiffusionModel, model: DiffusionModel) -> None:
    """Raise ValueError unless both models predict the same of the same latents, on the same device."""
    facts: dict[str, Callable[[DiffusionModel], object]] = {
        "objective": lambda m: m.objective.name,
        "diffusion process": lambda m: _told_process(m.objective.process),
        "channels of the latents": lambda m: m.io_channels,
        "samples per latent frame": lambda m: m.downsampling_ratio,
        "sample rate": lambda m: m.sample_rate,
        "device": lambda m: str(m.device),
    }
    for name, fact in facts.items():
        if fact(guide) != fact(model):
            raise ValueError(
                f"a guide must have the {name} of the model, which is {fact(model)}; it has {fact(guide)}"
            )
    if model.length_multiple % guide.length_multiple:
        raise ValueError(
            f"a guide must take the lengths of the model, multiples of {model.length_multiple} samples; it "
            f"takes multiples of {guide.length_multiple}"
        )


def _told_process(process: Process) -> str:
    """Its class and numbers."""
    numbers = {k: v for k, v in sorted(vars(process).items()) if isinstance(v, (int, float, str))}
    return " ".join([type(process).__name__, *(f"{k}={v}" for k, v in numbers.items())])
