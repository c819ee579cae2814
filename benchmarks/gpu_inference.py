"""Published models with random weights on a GPU, from conditioning to sound; part of `inference.py`.

Without guidance where 8 steps are taken, as models do that were post-trained for few steps. Rows appear as
they are measured, since time may run out: first all models in the first precision, then compiled, which takes
most of the time, then one clip at a time in the other precisions.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from common import time_together
from gpu_common import OPEN, card, published_model
from plain_dit import PlainDiT, plain_sample

from stable_audio.inference.generation.generate import generate
from stable_audio.inference.precision import place
from stable_audio.model import DiffusionModel


@dataclass(frozen=True)
class Shape:
    """A published model and what is asked of it."""

    config: str
    steps: int
    cfg_scale: float
    seconds: tuple[float, ...]
    batches: tuple[int, ...] = (1,)


SHAPES = {
    "open": Shape(OPEN, 50, 7.0, (47.0,), (1, 8)),
    "small": Shape("model_configs/stable_audio_3/small.json", 8, 1.0, (5.0, 30.0, 120.0)),
    "medium": Shape("model_configs/stable_audio_3/medium.json", 8, 1.0, (5.0, 30.0, 120.0, 380.0)),
}
PRECISIONS = ("bfloat16", "float16", "float32")


def add_arguments(group: Any) -> None:
    group.add_argument("--models", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    group.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    group.add_argument("--compile-precision", choices=PRECISIONS, default="bfloat16")
    group.add_argument("--matmul-precision", default="high", help="of float32 products, as in `generate`")


def main(args: argparse.Namespace) -> None:
    torch.set_float32_matmul_precision(args.matmul_precision)
    print(
        f"{card(args.device)}; from conditioning to sound on the host; float32 products: TF32\n", flush=True
    )
    print(f"{'':8}{'s':>6}{'batch':>7}  {'':24}{'s end to end':>13}{'x real time':>13}{'GiB':>7}")
    first, *others = args.precisions
    for name in args.models:
        uncompiled(name, SHAPES[name], [first], args)
    for name in args.models:
        compiled(name, SHAPES[name], args)
    for name in args.models:
        uncompiled(name, replace(SHAPES[name], batches=(1,)), others, args)


def uncompiled(name: str, shape: Shape, precisions: Sequence[str], args: argparse.Namespace) -> None:
    """Rows of the plain loop and of `generate`, in turns, in each precision."""
    if not precisions:
        return
    model = _model(shape.config, args.device)
    for dtype in precisions:
        model.backbone.to(getattr(torch, dtype))
        ways = {f"plain, {dtype}": plain_of(model), f"ours, {dtype}": ours_of(model)}
        measure(name, shape, model, ways, args)


def compiled(name: str, shape: Shape, args: argparse.Namespace) -> None:
    """Rows of `generate --compile`."""
    model = _model(shape.config, args.device)
    place(model, dtype=args.compile_precision, device=args.device, compiled=True)
    started = time.perf_counter()
    measure(name, shape, model, {f"compiled, {args.compile_precision}": ours_of(model)}, args)
    print(f"{name}: compiled and measured in {time.perf_counter() - started:.0f} s", flush=True)


Sampled = Callable[[Shape, float, int], torch.Tensor]
"""(shape, seconds, batch) -> sound (b c n) on the host."""


def measure(
    name: str, shape: Shape, model: DiffusionModel, ways: dict[str, Sampled], args: argparse.Namespace
) -> None:
    """Print a row for every length, batch and way; ways take turns."""
    for seconds, batch in itertools.product(shape.seconds, shape.batches):
        peaks: dict[str, float] = {}
        works = {
            way: partial(_peak_noted, peaks, way, run, shape, seconds, batch) for way, run in ways.items()
        }
        # The first round warms up, and compiles.
        times = time_together(works, rounds=min(args.rounds, 3), device=args.device)
        for way, took in times.items():
            speed = batch * seconds / took
            row = f"{name:8}{seconds:6g}{batch:7}  {way:24}{took:13.3f}{speed:13.0f}{peaks[way]:7.1f}"
            print(row, flush=True)


def _peak_noted(
    peaks: dict[str, float], way: str, run: Sampled, shape: Shape, seconds: float, batch: int
) -> None:
    """Sample, and note the GiB that the device held at most."""
    torch.cuda.reset_peak_memory_stats()
    run(shape, seconds, batch)
    peaks[way] = torch.cuda.max_memory_allocated() / 2**30


def ours_of(model: DiffusionModel) -> Sampled:
    """`generate` with all that it does."""

    def run(shape: Shape, seconds: float, batch: int) -> torch.Tensor:
        sound = generate(
            model,
            [{"seconds_total": seconds} for _ in range(batch)],
            seconds=seconds,
            short=True,
            sampler="euler",
            steps=shape.steps,
            cfg_scale=shape.cfg_scale,
        )
        return sound

    return run


def plain_of(model: DiffusionModel) -> Sampled:
    """The network in a loop, then the decoder."""
    plain = PlainDiT(model.backbone)  # type: ignore[arg-type]

    @torch.inference_mode()
    def run(shape: Shape, seconds: float, batch: int) -> torch.Tensor:
        samples = round(seconds * model.sample_rate)
        samples = -(-samples // model.length_multiple) * model.length_multiple
        device = model.device
        noise = torch.randn(batch, *model.latent_shape_of(samples), device=device)
        extra = {}
        if model.backbone.slot_widths.get("local_add"):
            width = model.backbone.slot_widths["local_add"]
            extra["local"] = torch.zeros(batch, width, noise.shape[-1], device=device)
        cond = model.condition([{} for _ in range(batch)], _inpainting(model, noise), device=device)
        levels = [1 - i / shape.steps for i in range(shape.steps)] + [0.0]
        latents = plain_sample(
            plain,
            noise,
            levels,
            text=cond.cross_attn,
            vector=cond.global_cond,
            cfg_scale=shape.cfg_scale,
            **extra,
        )
        return torch.cat([model.pretransform.decode(x).float().cpu() for x in latents.split(1)])

    return run


def _inpainting(model: DiffusionModel, noise: torch.Tensor) -> dict[str, Any]:
    from stable_audio.inference.generation.audio_inputs import inpaint_tensors, inpaints

    if not inpaints(model):
        return {}
    return inpaint_tensors(model, None, None, len(noise), tuple(noise.shape[1:]))


def _model(config: str, device: str) -> DiffusionModel:
    model, _ = published_model(argparse.Namespace(config=config, device=device))
    return model.eval().requires_grad_(False)
