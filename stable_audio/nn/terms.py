"""Weighted terms of a training loss, and their sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

Inputs = TypeVar("Inputs")


@dataclass
class Term(Generic[Inputs]):
    """weight * loss(inputs); the weight is multiplied by `decay` before each use.

    Attributes:
        name: name of the term in logs.
        loss: inputs -> scalar.
    """

    name: str
    loss: Callable[[Inputs], Tensor]
    weight: float = 1.0
    decay: float = 1.0

    def __call__(self, inputs: Inputs) -> Tensor:
        return weighted_sum([self], inputs)[0]


def weighted_sum(terms: Sequence[Term[Inputs]], inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
    """(sum of the weighted terms, each of them by name without its weight)."""
    values: dict[str, Tensor] = {}
    for term in terms:
        term.weight *= term.decay
        values[term.name] = term.loss(inputs)
    return torch.as_tensor(sum(term.weight * values[term.name] for term in terms)), values
