"""Kinds `loss3`, `ot`, `padding`, `inpaint_mask`: the parts of a training step of Stable Audio 3."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stable_audio.diffusion.clip_frames import FrameRate, frame_rows, resized
from stable_audio.diffusion.coupling import coupled
from stable_audio.diffusion.item_means import FrameGroups, ItemMeans
from stable_audio.training.diffusion.inpainting import KINDS, InpaintingMasks
from tests.golden.harness import Case

_FORCED = {
    "RANDOM_SEGMENTS": "segments",
    "FULL_MASK": "full",
    "CAUSAL_MASK": "causal",
    "RANDOM_SPANS": "spans",
}


def run_loss3(case: Case) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, call in case.calls.items():
        prediction = case.inputs["pred"].clone().requires_grad_()
        target = case.inputs["target"]
        signal = case.inputs["mask"].bool()[:, None]
        groups = FrameGroups(signal, ~signal, torch.zeros_like(signal))
        means = ItemMeans(
            call["mask_loss_weight"],
            call["mask_padding_attention"],
            call["loss_normalization"],
            call["loss_norm_eps"],
        )
        normalized = torch.ones_like(signal) if call.get("no_mask") else signal
        errors = means.normalized((prediction - target).square(), target, normalized)
        loss = sum(means(errors, groups), torch.zeros(()))
        loss.backward()
        parts = means.parts(errors, groups)
        found |= {
            f"{name}.full": errors,
            f"{name}.loss": loss,
            f"{name}.signal": parts["signal"],
            f"{name}.padding": parts["masked_loss"],
            f"{name}.grad": prediction.grad,
        }
    return found


def run_ot(case: Case) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in case.calls:
        x, noise = case.inputs[f"{name}.x"], case.inputs[f"{name}.noise"]
        order = coupled(x, noise)
        found |= {f"{name}.perm": order, f"{name}.x_half": 0.5 * x + 0.5 * noise[order]}
    return found


def run_padding(case: Case) -> dict[str, Any]:
    return {name: _PADDING[call["fn"]](call) for name, call in case.calls.items()}


def _rate(call: dict[str, Any]) -> FrameRate:
    return FrameRate(call["sample_rate"], call["downsampling_ratio"])


def _metadata(call: dict[str, Any]) -> list[dict[str, Any]]:
    return [{} if seconds is None else {"seconds_total": seconds} for seconds in call["seconds_total"]]


def _resize(call: dict[str, Any]) -> Tensor:
    return frame_rows([resized(valid, call["from"], call["to"]) for valid in call["valid"]], call["to"])


def _silence_extension(call: dict[str, Any]) -> Tensor:
    rate, most = _rate(call), call["length"]
    draws = zip(call["valid"], call["unit_exponential"])
    return frame_rows([rate.extended(v, unit, call["scale_seconds"], most) for v, unit in draws], most)


def _effective_length(call: dict[str, Any]) -> Tensor:
    lengths = _rate(call).of_clips(_metadata(call))
    return torch.tensor(-1 if lengths is None else lengths)


def _sampling_mask(call: dict[str, Any]) -> Tensor:
    rate, lengths = _rate(call), _rate(call).of_clips(_metadata(call))
    assert lengths is not None
    headroom = rate.within(call["headroom_seconds"])
    return frame_rows([n + headroom for n in lengths], call["length"])


_PADDING = {
    "resize": _resize,
    "silence_extension": _silence_extension,
    "effective_length": _effective_length,
    "sampling_mask": _sampling_mask,
}


class _StoredChoices:
    """Hands out the draws of the case, and checks that the same was asked for."""

    def __init__(self, draws: list[list[Any]]) -> None:
        self._draws = iter(draws)

    def _next(self, function: str, *arguments: Any) -> Any:
        name, stored, value = next(self._draws)
        assert (name, stored) == (function, list(arguments)), (name, stored, function, arguments)
        return value

    def choices(self, values: list[Any], *, weights: list[float]) -> list[Any]:
        name, (codes, stored), value = next(self._draws)
        assert (name, len(codes), list(stored)) == ("choices", len(values), list(weights))
        return [values[codes.index(value)]]

    def randint(self, low: int, high: int) -> int:
        return self._next("randint", low, high)

    def uniform(self, low: float, high: float) -> float:
        return self._next("uniform", low, high)

    def random(self) -> float:
        return self._next("random")


def run_inpaint_mask(case: Case) -> dict[str, Any]:
    found = {}
    for name, call in case.calls.items():
        keywords = dict(call["kwargs"])
        mask_padding = keywords.pop("mask_padding", False)
        masks = InpaintingMasks(mask_padding=mask_padding, **keywords)
        draws: Any = _StoredChoices(call["draws"])
        kind = _FORCED.get(call.get("force_mask_type", ""))
        assert kind is None or kind in KINDS
        rows = [masks(valid, call["length"], draws, kind=kind)[0] for valid in call["valid"]]
        found[name] = torch.stack(rows)
    return found
