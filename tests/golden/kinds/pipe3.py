"""Kind `pipe3`: latents of Stable Audio 3, each clip with its own schedule and padding mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stable_audio.diffusion.clip_frames import FrameRate
from stable_audio.diffusion.shift import TimeShift
from stable_audio.inference import generate
from stable_audio.model import DiffusionModel
from stable_audio.types import ConditionTensors, Metadata
from tests.golden.harness import Case, Replay
from tests.golden.kinds.assembly import build_model, given_tensors


def run(case: Case) -> dict[str, Any]:
    return {name: _latents(case, build_model(case), call) for name, call in case.calls.items()}


def _latents(case: Case, model: DiffusionModel, call: dict[str, Any]) -> Tensor:
    inputs, extra = case.inputs, case.extra
    arguments: dict[str, Any] = {"steps": call["steps"]}
    arguments |= {k: call[k] for k in ("cfg_scale", "apg_scale", "headroom_seconds") if k in call}
    arguments.setdefault("cfg_scale", 1.0)
    if call.get("init"):
        arguments |= {"init_audio": inputs["init"], "init_noise_level": call["init_noise_level"]}
    negatives = None
    if call.get("negative"):
        negatives = [{**item, NEGATIVE: True} for item in extra["neg_metadata"]]
    model.condition = _given(case, model)  # type: ignore[method-assign]
    lengths = FrameRate(model.sample_rate, 1).of_clips(extra["metadata"])
    assert lengths is not None
    shift = model.sampling_shift
    if call["steps"] + 1 == len(lengths) and shift is not None:
        # The reference takes the lengths of three items for those of the three levels of two steps.
        model.sampling_shift, model.use_effective_length = _Paired(shift, lengths), False
    return generate(
        model,
        extra["metadata"],
        negative_conditioning=negatives,
        sampler=call.get("sampler_type"),
        sample_size=inputs["noise"].shape[-1],
        start_noise=inputs["noise"],
        noise=Replay(inputs["steps_noise"]),
        return_latents=True,
        **arguments,
    )


class _Paired(TimeShift):
    """Shifts level i by the length of item i."""

    def __init__(self, shift: TimeShift, lengths: list[int]) -> None:
        self.shift, self.lengths = shift, torch.tensor(lengths)

    def __call__(self, t: Tensor, length: int | Tensor) -> Tensor:
        return self.shift(t, self.lengths)


NEGATIVE = "of the negative prompt"


def _given(case: Case, model: DiffusionModel) -> Any:
    """`model.condition` with the tensors of the case for ids without a conditioner."""
    condition = type(model).condition

    def conditioned(metadata: list[Metadata], extra: ConditionTensors | None = None, **options: Any) -> Any:
        tensors = given_tensors(case, "cond")
        if metadata[0].get(NEGATIVE):
            tensors |= given_tensors(case, "neg")
        return condition(model, metadata, {**(extra or {}), **tensors}, **options)

    return conditioned
