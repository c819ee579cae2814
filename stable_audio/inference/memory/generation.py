"""The memory of generation: of all parts at once, and of each in turn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from stable_audio.inference.generation.coding import decode_each
from stable_audio.inference.memory.blank import blank_conditioning
from stable_audio.inference.memory.encoders import frozen_encoders
from stable_audio.inference.memory.kernels import kernels_of
from stable_audio.inference.memory.live import LiveMemory, empty_weights, on_shapes
from stable_audio.inference.memory.reserve import reserve_of
from stable_audio.inference.precision import INT4
from stable_audio.inference.quantize import hold_in_4_bits
from stable_audio.model import DiffusionModel

ARRANGEMENTS = {
    "all": (("encoders", "backbone", "autoencoder"),),
    "offload": (("encoders",), ("backbone",), ("autoencoder",)),
}
"""Which parts are on the device together: all at once, or one after the other."""


@dataclass(frozen=True)
class GenerationPlan:
    """Bytes that generation needs on its device.

    Attributes:
        batch_size: clips at once.
        seconds: length of each clip.
        weights: bytes of "encoders" (and all conditioners), "backbone", "autoencoder".
        work: what each part needs beside its weights while it runs.
        decoding: the same of decoding one clip, "whole" and "chunked".
        reserve: what the device's libraries take.
        assumptions: what is not counted, as sentences.
        device_bytes: memory of the device, if known.
    """

    batch_size: int
    seconds: float
    weights: Mapping[str, int]
    work: Mapping[str, int]
    decoding: Mapping[str, int]
    reserve: int
    assumptions: tuple[str, ...] = ()
    device_bytes: int | None = None

    def total(self, *, offload: bool = False, chunked: bool = False) -> int:
        """Greatest need of generation.

        Args:
            offload: encoders, backbone and autoencoder are on the device in turn.
            chunked: latents are decoded in overlapping pieces.
        """
        work = {**self.work, "autoencoder": self.decoding["chunked" if chunked else "whole"]}
        stages = ARRANGEMENTS["offload" if offload else "all"]
        needs = [sum(self.weights[p] for p in parts) + max(work[p] for p in parts) for parts in stages]
        return max(needs) + self.reserve

    def totals(self) -> dict[str, int]:
        """Arrangement -> its total, the plainest first."""
        return {
            "all parts on the device": self.total(),
            "chunked decoding": self.total(chunked=True),
            "offload": self.total(offload=True),
            "offload and chunked decoding": self.total(offload=True, chunked=True),
        }

    def first_that_fits(self) -> str | None:
        """The plainest arrangement that fits the device; None if none does, or its memory is unknown."""
        if self.device_bytes is None:
            return None
        return next((name for name, need in self.totals().items() if need <= self.device_bytes), None)

    def as_dict(self) -> dict[str, Any]:
        """The plan for JSON."""
        return {
            "batch_size": self.batch_size,
            "seconds": self.seconds,
            "weights": dict(self.weights),
            "work": dict(self.work),
            "decoding": dict(self.decoding),
            "reserve": self.reserve,
            "totals": self.totals(),
            "device_bytes": self.device_bytes,
            "first_that_fits": self.first_that_fits(),
            "assumptions": list(self.assumptions),
        }


def plan_generation(
    model: DiffusionModel,
    *,
    batch_size: int = 1,
    seconds: float | None = None,
    dtype: str | None = "float32",
    device: str = "cuda",
    guided: bool = True,
    decoded: bool = True,
    device_bytes: int | None = None,
) -> GenerationPlan:
    """Plan generation by running one step and one decoding on shapes.

    Args:
        model: a model on the meta device, which can only be used on shapes afterwards; its conditioners may
            be anywhere, and stay as they are.
        batch_size: clips at once.
        seconds: length of a clip; None: the model's.
        dtype: type of the backbone's weights, also "int4"; None: that which they have.
        device: "cpu", or the type of a GPU.
        guided: whether a guidance weight other than 1 doubles the batch.
        decoded: whether latents become sound.
        device_bytes: memory of the device.

    Raises:
        ValueError: no clips, or clips without a length.
    """
    if batch_size < 1 or (seconds is not None and not 0 < seconds < math.inf):
        raise ValueError(
            f"batch_size must be at least 1 and seconds a finite number above 0, found {batch_size} and "
            f"{seconds}"
        )
    size = model.sample_size if seconds is None else round(seconds * model.sample_rate)
    size = -(-size // model.length_multiple) * model.length_multiple
    computing = [part for part in (model.backbone, model.pretransform) if part is not None]
    for part in computing:
        part.eval()
    if dtype == INT4:
        hold_in_4_bits(model.backbone)
        dtype = "float32" if device == "cpu" else "bfloat16"
    if dtype is not None:
        model.backbone.to(getattr(torch, dtype))
    with on_shapes(), torch.no_grad():
        for part in computing:
            empty_weights(part)
        live = LiveMemory()
        parts = {
            "encoders": live.hold(_tensors(model.conditioner)),
            "backbone": live.hold(_tensors(model.backbone)),
            "autoencoder": live.hold(_tensors(model.pretransform)),
        }
        with kernels_of(device, "32-true"):
            resident = live.now
            sampling = live.peak_of(lambda: _sample(model, batch_size, size, guided)) - resident
            shape = model.latent_shape_of(size)
            decoding = {
                name: live.peak_of(partial(_decode, model, shape, chunked)) - resident if decoded else 0
                for name, chunked in (("whole", False), ("chunked", True))
            }
    encoders = frozen_encoders(model)
    parts["encoders"] += encoders.bytes
    return GenerationPlan(
        batch_size=batch_size,
        seconds=size / model.sample_rate,
        weights=parts,
        work={"encoders": 0, "backbone": sampling},
        decoding=decoding,
        reserve=reserve_of(device),
        assumptions=("without what text encoders compute in between", *encoders.unknown),
        device_bytes=device_bytes,
    )


def _tensors(module: nn.Module | None) -> list[torch.Tensor]:
    return [] if module is None else [*module.parameters(), *module.buffers()]


def _sample(model: DiffusionModel, batch: int, size: int, guided: bool) -> None:
    """What every step of every sampler does."""
    dtype = model.dtype
    cond = blank_conditioning(model, batch=batch, sample_size=size, device="cpu").to(dtype=dtype)
    x = torch.empty(batch, *model.latent_shape_of(size))
    if guided and model.backbone.null(cond) is not None:
        cond = cond.repeat(2)
    prepared = model.backbone.prepare(cond)
    rows = x.repeat(2 if len_of(prepared, batch) > batch else 1, *([1] * (x.ndim - 1)))
    output = model.backbone(rows.to(dtype), x.new_empty(len(rows)).to(dtype), prepared)
    # The sample, its estimate, the step before it, and the guided output, as samplers hold them.
    held = [x.clone() for _ in range(3)]
    del output, held


def len_of(cond: Any, default: int) -> int:
    """Items of a conditioning; `default` if it holds no tensor."""
    shapes = cond.shapes()
    return next(iter(shapes.values()))[0] if shapes else default


def _decode(model: DiffusionModel, shape: tuple[int, ...], chunked: bool) -> None:
    decode_each(model, torch.empty(1, *shape), chunked)
