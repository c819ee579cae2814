"""Ways to take a training step of a DiT: written straight away, as a run takes it, compiled, and its bound.

Shared by the scripts for CPUs (`train_step.py`) and for published models on a GPU (`gpu_training.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from gpu_common import published_model
from torch import Tensor, nn

from stable_audio.config import ModelConfig
from stable_audio.data.base import Batch
from stable_audio.model import DiffusionModel
from stable_audio.nn.compiling import compile_network
from stable_audio.training.build import build_training
from stable_audio.training.devices.float8 import use_float8
from stable_audio.training.diffusion.module import DiffusionTraining
from stable_audio.training.memory_plan import Planner, choice_of
from stable_audio.training.memory_plan.training_plan import TrainingPlan
from stable_audio.training.options import RunOptions

Step = Callable[[], Any]


@dataclass(frozen=True)
class Setup:
    """What is trained, and on what.

    Attributes:
        config: model file relative to the repository, or its contents.
        batch: clips per step.
        frames: latent frames of a clip.
        precision: as of `train --precision`; all but 32-true are bfloat16 by autocast.
    """

    config: str | dict[str, Any]
    batch: int
    frames: int
    device: str
    precision: str = "bf16-mixed"

    @property
    def dtype(self) -> torch.dtype:
        """The type of the products."""
        return torch.float32 if self.precision == "32-true" else torch.bfloat16

    @property
    def place(self) -> dict[str, Any]:
        return {"device": self.device, "dtype": self.dtype}

    def autocast(self) -> torch.autocast:
        kind = torch.device(self.device).type
        return torch.autocast(kind, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def training(self, *, checkpointing: bool) -> DiffusionTraining:
        """The training of a run with stored latents, an average of weights and dropped conditioning."""
        model, config = self._published(checkpointing=checkpointing)
        model.pretransform = None
        module = build_training(config, model, batch_size=self.batch)
        assert isinstance(module, DiffusionTraining)
        return module.train()

    def plan(self) -> TrainingPlan:
        """What `stable-audio plan` says of a step that recomputes nothing: its memory and its operations."""
        model, config = replace(self, device="meta")._published(checkpointing=False)
        planner = Planner(
            config,
            device=torch.device(self.device).type,
            sample_size=self.frames * model.downsampling_ratio,
            texts_read=True,  # fixed tensors stand in for the text encoder
        )
        return planner.plan(choice_of(config, RunOptions(batch_size=self.batch), precision=self.precision))

    def batch_of(self, module: DiffusionTraining) -> Batch:
        """Random latents on the host."""
        return self.on_host(torch.randn(self.batch, module.model.io_channels, self.frames))

    def on_host(self, audio: Tensor) -> Batch:
        """A batch as a loader gives it, page-locked where the device is a GPU."""
        pinned = audio.pin_memory() if self.device.startswith("cuda") else audio
        return Batch(pinned, [{"path": "x"}] * self.batch)

    def _published(self, *, checkpointing: bool) -> tuple[DiffusionModel, ModelConfig]:
        return published_model(
            self, pre_encoded=True, gradient_checkpointing=checkpointing, use_ema=True, cfg_dropout_prob=0.1
        )


def our_step(setup: Setup, *, compiled: bool = False, whole: bool = False) -> Step:
    """A step as a run takes it.

    Args:
        whole: compile the whole backbone, not one block for all.
    """
    module = setup.training(checkpointing=False)
    use_float8(module.model, setup.precision, compiled=compiled)
    if compiled:
        backbone = module.model.backbone
        backbone.compile() if whole else compile_network(backbone)
    return stepping(module, setup, itertools.repeat(setup.batch_of(module)))


def stepping(module: DiffusionTraining, setup: Setup, batches: Iterator[Batch]) -> Step:
    """A step as a run takes it, on the next batch of the host."""
    module.run_steps = 10_000  # schedules that end need to know it
    optimizer = module.configure_optimizers()
    optimizer = optimizer["optimizer"] if isinstance(optimizer, dict) else optimizer
    module._trainer = _Trainer(setup.precision)  # type: ignore[assignment]

    def step() -> None:
        host = next(batches)
        module.begin_batch(host)
        there = module.transfer_batch_to_device(host, torch.device(setup.device), 0)
        with setup.autocast():
            loss = module.training_step(there)
        loss.backward()
        module.configure_gradient_clipping(optimizer)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        module.end_batch(stepped=True)

    return step


def plain_step(setup: Setup) -> Step:
    """A step as one writes it straight away.

    Every layer is recomputed, the graph is searched for parameters without gradient (as DDP does with
    find_unused_parameters), the average is taken parameter by parameter, and the loss is read in every step.
    """
    module = setup.training(checkpointing=True)
    model = module.model
    average = [p.detach().clone() for p in model.backbone.parameters()]
    module.ema = None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    host = setup.batch_of(module)

    def step() -> None:
        there = Batch(host.audio.to(setup.device), host.metadata)
        with setup.autocast():
            loss = module.training_step(there)
        unreached(loss, model)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for kept, now in zip(average, model.backbone.parameters()):
                kept.lerp_(now, 1e-4)
        loss.item()

    return step


STEPS: dict[str, Callable[[Setup], Step]] = {
    "plain": plain_step,
    "eager": our_step,
    "compiled": lambda setup: our_step(setup, compiled=True),
    "compiled whole": lambda setup: our_step(setup, compiled=True, whole=True),
}


def unreached(loss: Tensor, module: nn.Module) -> set[nn.Parameter]:
    """The parameters that the graph of `loss` does not reach."""
    seen: set[Any] = set()
    found: set[int] = set()
    stack = [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found.add(id(getattr(node, "variable", None)))
        stack.extend(after for after, _ in node.next_functions)
    return {p for p in module.parameters() if p.requires_grad and id(p) not in found}


class _Trainer:
    """The few facts of a Lightning trainer that a step asks for."""

    global_rank, world_size, global_step = 0, 1, 0

    def __init__(self, precision: str) -> None:
        self.precision = precision
