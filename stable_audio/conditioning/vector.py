"""Plain vectors as conditioning: an embedding that another program computed, a row of measurements."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stable_audio.conditioning.base import Conditioner, Layout
from stable_audio.nn.transfer import to_device


class VectorConditioner(Conditioner):
    """A linear layer over the numbers of a vector.

    Args:
        input_dim: numbers per item.
        bias: whether the layer has one; without, a vector of zeros gives zeros.
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

    def forward(self, values: list[Any], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """b vectors (lists, arrays or tensors) -> (b 1 d), mask (b 1).

        Raises:
            ValueError: a value that is not `input_dim` finite numbers.
        """
        self.embedder.to(device)
        vectors = torch.stack([self._vector(v) for v in values]).to(self.embedder.weight.dtype)
        mask = torch.ones(len(vectors), 1, dtype=torch.bool, device=device)
        return self.embedder(to_device(vectors, device)).unsqueeze(1), mask

    def _vector(self, value: Any) -> Tensor:
        try:
            vector = torch.as_tensor(value, dtype=torch.float32, device="cpu").flatten()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"a list of {self.input_dim} numbers is needed, found {value!r:.80}") from error
        if len(vector) != self.input_dim:
            raise ValueError(f"a list of {self.input_dim} numbers is needed, found {len(vector)}")
        if not vector.isfinite().all():
            raise ValueError(f"the numbers of a vector must be finite, found {value!r:.80}")
        return vector
