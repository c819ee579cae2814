"""What generation says when its memory runs out: what takes how much, and the cheapest change that fits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import product

import torch

from stable_audio.inference.memory.errors import (
    OutOfMemory,
    free_memory_of,
    is_out_of_memory,
    out_of_memory_with,
)
from stable_audio.inference.memory.generation import GenerationPlan, plan_generation
from stable_audio.inference.memory.loaded import shapes_of, updates_in
from stable_audio.inference.memory.reserve import memory_of, readable_size, room_after_failure
from stable_audio.model import DiffusionModel


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """How clips are rendered, as far as memory depends on it.

    Attributes:
        device: type of the device.
        batch_size: clips at once.
        seconds: length of each.
        guided: whether guidance doubles the batch.
        decoded: whether latents become sound.
        chunked: they do in overlapping pieces.
        offload: parts are on the device in turn.
        dtype: type to which the backbone's weights are converted; None: they stay as they are.
        thin: adapters add low-rank products, and store no updated weights.
    """

    device: str
    batch_size: int
    seconds: float
    guided: bool = True
    decoded: bool = True
    chunked: bool = False
    offload: bool = False
    dtype: str | None = None
    thin: bool = False


def answering(
    model: DiffusionModel, *, batch_size: int, samples: int, guided: bool, decoded: bool, chunked: bool
) -> AbstractContextManager[None]:
    """Context of a generation, in which an error of a lack of memory becomes one that says what fits.

    Args:
        batch_size: as in `Rendering`, as are the three last.
        samples: audio samples of each clip.

    Raises:
        OutOfMemory: in place of torch's error.
    """
    rendering = Rendering(
        device=model.device.type,
        batch_size=batch_size,
        seconds=samples / model.sample_rate,
        guided=guided,
        decoded=decoded,
        chunked=chunked,
        offload=model.computes_on is not None,
    )
    return _answered(model, rendering, "out of memory while generating")


def answering_loading(
    model: DiffusionModel, device: torch.device, *, offload: bool
) -> AbstractContextManager[None]:
    """Context in which a model's weights come to a device; as `answering` of one clip of its length."""
    seconds = model.sample_size / model.sample_rate
    rendering = Rendering(device=device.type, batch_size=1, seconds=seconds, offload=offload)
    return _answered(model, rendering, "out of memory while loading the model")


@contextmanager
def _answered(model: DiffusionModel, rendering: Rendering, start: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        answer = out_of_memory(error, model, rendering, start=start)
    else:
        return
    raise answer  # outside of the handler, so that torch's error and what it holds are let go


def out_of_memory(
    error: BaseException, model: DiffusionModel, rendering: Rendering, *, start: str
) -> OutOfMemory:
    """The error for a generation whose memory ran out; what the functions of torch's error held is freed.

    Args:
        start: what was being done.
    """
    free_memory_of(error)
    clips = "1 clip" if rendering.batch_size == 1 else f"{rendering.batch_size} clips at once"
    length = f"{clips} of {rendering.seconds:.4g} s"
    return out_of_memory_with(
        start,
        lambda: _answer(model, rendering, length),
        error,
        "a smaller --batch-size, --chunked-decode, --offload on a GPU, half the bits (--dtype) or shorter "
        "clips need less (docs/troubleshooting.md)",
    )


def _answer(model: DiffusionModel, rendering: Rendering, length: str) -> str:
    planner = _Planner(model)
    plan = planner.plan(rendering)
    need, device_bytes = planner.total(rendering), memory_of(rendering.device)
    most = room_after_failure(need, plan.reserve, device_bytes)
    available = "" if device_bytes is None else f" of {readable_size(device_bytes)}"
    takes = "takes" if rendering.batch_size == 1 else "take"
    taken = f"{length} {takes} about {readable_size(need)}{available}: {_parts(plan, rendering)}"
    fitting = next((r for r in _others(model, rendering) if planner.total(r) <= most), None)
    if fitting is None:
        return f"{taken}; no setting makes it fit: render shorter clips, or use a smaller model"
    change = " and ".join(_changes(rendering, fitting))
    return (
        f"{taken}; the cheapest change that fits is {change}, about {readable_size(planner.total(fitting))}"
    )


class _Planner:
    """Plans of one model, each made once."""

    def __init__(self, model: DiffusionModel) -> None:
        self._model = model
        self._plans: dict[Rendering, GenerationPlan] = {}

    def plan(self, rendering: Rendering) -> GenerationPlan:
        key = replace(rendering, chunked=False, offload=False)
        if key not in self._plans:
            self._plans[key] = plan_generation(
                shapes_of(self._model, thin_adapters=rendering.thin),
                batch_size=rendering.batch_size,
                seconds=rendering.seconds,
                dtype=rendering.dtype,
                device=rendering.device,
                guided=rendering.guided,
                decoded=rendering.decoded,
            )
        return self._plans[key]

    def total(self, rendering: Rendering) -> int:
        return self.plan(rendering).total(offload=rendering.offload, chunked=rendering.chunked)


def _others(model: DiffusionModel, rendering: Rendering) -> Iterator[Rendering]:
    """Ways to render with less memory, the cheapest first: what costs nothing, time, precision."""
    on_host = rendering.device == "cpu"
    half = "bfloat16" if on_host else "float16"
    types = [None, half] if model.dtype == torch.float32 else [None]
    stored = any(not update.by_activations for _, update in updates_in(model))
    thin = [False, True] if stored else [False]
    offload = [False, True] if not on_host and not rendering.offload else [rendering.offload]
    chunked = [False, True] if rendering.decoded and not rendering.chunked else [rendering.chunked]
    batches = sorted({rendering.batch_size, -(-rendering.batch_size // 2), 1}, reverse=True)
    for dtype, thinly, in_turn, pieces, batch in product(types, thin, offload, chunked, batches):
        other = replace(
            rendering, dtype=dtype, thin=thinly, offload=in_turn, chunked=pieces, batch_size=batch
        )
        if other != rendering:
            yield other


def _changes(before: Rendering, after: Rendering) -> Iterator[str]:
    """What to do to get from one way to another: the option of the command, and the keyword."""
    if after.batch_size != before.batch_size:
        yield f"--batch-size {after.batch_size} (batch_size={after.batch_size})"
    if after.chunked != before.chunked:
        yield "decoding in pieces with --chunked-decode (chunked_decode=True)"
    if after.offload != before.offload:
        yield "one part on the device at a time with --offload (offload(model, device))"
    if after.thin != before.thin:
        yield "adapters without stored weights with --thin-adapters (thin_adapters=True)"
    if after.dtype != before.dtype:
        yield f"--dtype {after.dtype} (model.backbone.to(torch.{after.dtype}))"


def _parts(plan: GenerationPlan, rendering: Rendering) -> str:
    """What takes how much, the largest first."""
    decoding = plan.decoding["chunked" if rendering.chunked else "whole"]
    sizes = {
        **{f"weights of the {name}": size for name, size in plan.weights.items()},
        "sampling": plan.work["backbone"],
        "decoding": decoding,
        "libraries": plan.reserve,
    }
    largest = sorted(((size, name) for name, size in sizes.items() if size), reverse=True)
    turns = ", of which one part's at a time" if rendering.offload else ""
    return ", ".join(f"{name} {readable_size(size)}" for size, name in largest) + turns
