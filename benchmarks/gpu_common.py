"""What the GPU benchmarks share: published models with random weights, built on the device."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio.config import ModelConfig, load_config
from stable_audio.factory import create_model_from_config
from stable_audio.inference.devices import best_device
from stable_audio.inference.rates import data_sheet_rate
from stable_audio.model import DiffusionModel
from stable_audio.types import ConditionTensors, Metadata

ROOT = Path(__file__).resolve().parent.parent
OPEN = "model_configs/stable_audio/stable_audio_open_1_0.json"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the arguments that the GPU benchmarks share."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--device", default=str(best_device()))
    made.add_argument("--config", default=OPEN, help="model file, relative to the repository")
    made.add_argument("--rounds", type=int, default=5, help="timed rounds; the median is printed")
    return made


class FixedConditions(nn.Module):
    """Stands in for the conditioners: the text encoder's weights are not needed to time what follows it.

    Args:
        shapes: id -> (tokens, features) of one item.
    """

    def __init__(self, shapes: dict[str, tuple[int, int]], device: str) -> None:
        super().__init__()
        self.tensors = {k: torch.randn(1, *shape, device=device) for k, shape in shapes.items()}
        self.conditioners = nn.ModuleDict()

    def ids(self) -> tuple[str, ...]:
        return tuple(self.tensors)

    def missing(self, item: Metadata) -> list[str]:
        return []

    def read_next(self, metadata: Sequence[Metadata], device: Any) -> None:
        """There are no texts."""

    def forward(self, metadata: Sequence[Metadata], device: Any) -> ConditionTensors:
        count = len(metadata)
        tokens = {key: value.shape[1] for key, value in self.tensors.items()}
        valid = {k: torch.ones(count, n, dtype=torch.bool, device=device) for k, n in tokens.items()}
        return {key: (value.expand(count, -1, -1), valid[key]) for key, value in self.tensors.items()}


def published_model(args: Any, **training: Any) -> tuple[DiffusionModel, ModelConfig]:
    """The model of `args.config` with small random weights and fixed conditioning, on `args.device`.

    `args.config`: model file relative to the repository, or its contents.
    """
    config = load_config(args.config if isinstance(args.config, dict) else ROOT / args.config)
    data = config.as_dict()
    data["training"] = {**data["training"], **training}
    config = load_config(data)
    model = create_model_from_config(config, device="meta").to_empty(device=args.device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02)
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.fill_(1.0)
    _restore_rotary(model)
    width = config.model.conditioning.cond_dim
    entries = config.model.conditioning.configs
    shapes = {entry.id: (getattr(entry.config, "max_length", 1), width) for entry in entries}
    model.conditioner = FixedConditions(shapes, args.device)
    return model, config


def _restore_rotary(model: nn.Module) -> None:
    """Frequencies are computed, not stored, so a model that was built without memory lacks them."""
    for module in model.modules():
        frequencies = getattr(module, "inv_freq", None)
        if isinstance(frequencies, Tensor):
            count = frequencies.shape[0]
            values = 10_000.0 ** -(torch.arange(count, dtype=torch.float32) / count)
            frequencies.copy_(values.to(frequencies))


def card(device: str) -> str:
    """Name of the card and version of torch, for the head of a table."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"
    return f"{name}, torch {torch.__version__}"


def peak_of_card(device: str) -> float | None:
    """Bfloat16 operations per second of the card by its data sheet; None where it is not listed."""
    return data_sheet_rate(torch.device(device), torch.bfloat16)
