"""Plain vectors as conditioning, such as precomputed embeddings or measurements."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stable_audio.conditioning.base import Conditioner, Layout
from stable_audio.conditioning.values import VectorValue, vector
from stable_audio.nn.precision import parameter_dtype
from stable_audio.nn.transfer import to_device


class VectorConditioner(Conditioner):
    """A linear layer over the numbers of a vector.

    Args:
        input_dim: numbers per item.
        bias: whether the layer has a bias; without, a vector of zeros gives zeros.
    """

    def __init__(self, *, output_dim: int, input_dim: int, bias: bool = True) -> None:
        super().__init__(dim=output_dim, output_dim=output_dim)
        if input_dim < 1:
            raise ValueError(f"input_dim is {input_dim}; a vector has at least 1 number")
        self.input_dim = input_dim
        self.embedder = nn.Linear(input_dim, output_dim, bias=bias)

    @property
    def layout(self) -> Layout:
        return "vector"

    def value_rule(self) -> VectorValue:
        return VectorValue(self.input_dim)

    def forward(self, values: list[Any], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """b vectors (lists, arrays or tensors) -> (b 1 d), mask (b 1).

        Raises:
            ValueError: a value that is not `input_dim` finite numbers.
        """
        vectors = torch.stack([vector(v, self.input_dim) for v in values]).to(parameter_dtype(self.embedder))
        mask = torch.ones(len(vectors), 1, dtype=torch.bool, device=device)
        return self.embedder(to_device(vectors, device)).unsqueeze(1), mask
