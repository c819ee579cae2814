"""Compare how well backbones learn with the same amount of computation.

Every contender trains on the synthetic collection with the same number of floating-point operations, counted
on its own training step; then it is judged by its validation loss and by how well its clips match the
requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from stable_audio.config import ModelConfig, load_config
from stable_audio.evaluation.quickstart import QuickstartEvaluator
from stable_audio.evaluation.scores import Scores
from stable_audio.factory import create_model_from_config
from stable_audio.inference import generate
from stable_audio.model import DiffusionModel
from stable_audio.types import Metadata

EXAMPLE: Metadata = {"prompt": "a sine wave playing C3", "seconds_start": 0.0, "seconds_total": 0.5}
"""Metadata of the synthetic collection, on which every contender must be able to condition."""


@dataclass(frozen=True)
class Contender:
    """One backbone.

    Attributes:
        name: name of the model file.
        backbone: type of the backbone.
        parameters: parameters of the backbone.
        forward_flops: floating-point operations of one backbone call on one item.
        step_flops: floating-point operations of one call on one item and the gradient of all parameters.
    """

    name: str
    backbone: str
    config: ModelConfig
    parameters: int
    forward_flops: int
    step_flops: int

    def steps(self, budget: float, batch_size: int) -> int:
        """Number of training steps within `budget` floating-point operations; at least one."""
        return max(1, round(budget / (self.step_flops * batch_size)))


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training: the model to judge, its last validation loss and the time it took."""

    model: DiffusionModel
    val_loss: float
    seconds: float


@dataclass(frozen=True)
class Result:
    """A line of the table.

    Attributes:
        tflops: 10^12 floating-point operations of backbone calls and gradients.
        pitch: share of clips with the right pitch.
        timbre: share of clips with the right timbre.
    """

    name: str
    backbone: str
    parameters: int
    gflops_per_call: float
    steps: int
    tflops: float
    val_loss: float
    pitch: float
    timbre: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


Train = Callable[[Contender, int], TrainingResult]
"""(contender, steps) -> the result of its training."""


def contender(path: str | Path) -> Contender:
    """Read a model file and count the operations of a training step of its backbone.

    Raises:
        ValueError: the model needs metadata that the synthetic collection lacks.
    """
    config = load_config(path)
    model = create_model_from_config(config)
    if model.conditioner is not None and (missing := model.conditioner.missing(EXAMPLE)):
        raise ValueError(f"{path}: the synthetic collection has no {missing}; it gives {sorted(EXAMPLE)}")
    section = config.as_dict()["model"]
    return Contender(
        name=Path(path).stem,
        backbone=section.get("diffusion", section)["type"],
        config=config,
        parameters=sum(p.numel() for p in model.backbone.parameters()),
        forward_flops=backbone_flops(model, backward=False),
        step_flops=backbone_flops(model, backward=True),
    )


def backbone_flops(model: DiffusionModel, *, backward: bool) -> int:
    """Floating-point operations of one backbone call on one training clip.

    Matrix products and convolutions, forward and backward, are counted (2 per multiply and add); norms
    and activations are not. Attention is counted by its matrix products.

    Args:
        model: its backbone is counted.
        backward: whether to count the gradient as well.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        cond = model.condition([EXAMPLE])
        x = torch.randn(1, *model.latent_shape)
    cond = cond.map(lambda v: v.detach())
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), torch.set_grad_enabled(backward), counter:
        output = model.backbone(x, torch.full((1,), 0.5), cond)
        if backward:
            output.square().mean().backward()
    model.zero_grad(set_to_none=True)
    return counter.get_total_flops()


def compete(
    contenders: Sequence[Contender],
    train: Train,
    *,
    budget: float,
    batch_size: int,
    repeats: int = 1,
    sampling: dict[str, Any] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> list[Result]:
    """Train and judge all contenders; best pitch and timbre first.

    Args:
        budget: floating-point operations that each contender may spend.
        repeats: clips to generate per class of the collection.
        sampling: keywords of `generate`, such as steps and cfg_scale.
        report: function that receives one line of text after each contender.

    Raises:
        ValueError: contenders differ in sample rate, length, latents or objective, which makes
            their losses incomparable.
    """
    _check_comparable(contenders)
    first = contenders[0].config
    evaluator = QuickstartEvaluator(sample_rate=first.sample_rate, sample_size=first.sample_size)
    results = []
    for entry in contenders:
        steps = entry.steps(budget, batch_size)
        result = train(entry, steps)
        scores = judge(result.model, evaluator, repeats=repeats, batch_size=batch_size, sampling=sampling)
        report(f"{entry.name}: {steps} steps, val loss {result.val_loss:.4f}, {scores.summary()}")
        results.append(
            Result(
                name=entry.name,
                backbone=entry.backbone,
                parameters=entry.parameters,
                gflops_per_call=entry.forward_flops / 1e9,
                steps=steps,
                tflops=steps * batch_size * entry.step_flops / 1e12,
                val_loss=result.val_loss,
                pitch=scores.pitch,
                timbre=scores.timbre,
                seconds=result.seconds,
            )
        )
    return sorted(results, key=lambda r: -(r.pitch + r.timbre))


def judge(
    model: DiffusionModel,
    evaluator: QuickstartEvaluator,
    *,
    repeats: int,
    batch_size: int,
    sampling: dict[str, Any] | None = None,
) -> Scores:
    """Generate every class of the collection and measure the clips."""
    requests = evaluator.requests(repeats=repeats)
    metadata = [request.metadata() for request in requests]
    seeds = list(range(len(requests)))
    clips = generate(model, metadata, seeds=seeds, batch_size=4 * batch_size, **(sampling or {}))
    return evaluator.score(clips, requests)


def table(results: Sequence[Result]) -> str:
    """The results as a table of text."""
    header = (
        "name",
        "type",
        "parameters",
        "GFLOP/call",
        "steps",
        "TFLOP",
        "val loss",
        "pitch",
        "timbre",
        "s",
    )
    rows = [
        (
            r.name,
            r.backbone,
            f"{r.parameters:,}",
            f"{r.gflops_per_call:.3f}",
            str(r.steps),
            f"{r.tflops:.3g}",
            f"{r.val_loss:.4f}",
            f"{r.pitch:.1%}",
            f"{r.timbre:.1%}",
            f"{r.seconds:.0f}",
        )
        for r in results
    ]
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = []
    for row in (header, *rows):
        names = [cell.ljust(width) for cell, width in zip(row[:2], widths)]
        lines.append("  ".join([*names, *(c.rjust(w) for c, w in zip(row[2:], widths[2:]))]))
    return "\n".join(lines)


def _check_comparable(contenders: Sequence[Contender]) -> None:
    if not contenders:
        raise ValueError("a bakeoff needs at least one model file")
    if len(names := [c.name for c in contenders]) > len(set(names)):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"two model files are called '{twice}', which is the name of the folder of each; rename one"
        )
    for name, get in (
        ("sample_rate", lambda c: c.config.sample_rate),
        ("sample_size", lambda c: c.config.sample_size),
        ("pretransform", lambda c: c.config.as_dict()["model"].get("pretransform")),
        ("objective", _objective),
    ):
        first = get(contenders[0])
        for rival in contenders[1:]:
            if get(rival) != first:
                raise ValueError(
                    f"{contenders[0].name} and {rival.name} differ in {name}, so their losses cannot be "
                    f"compared: {first} and {get(rival)}"
                )


def _objective(entry: Contender) -> str:
    return entry.config.as_dict()["model"].get("diffusion", {}).get("diffusion_objective", "v")
