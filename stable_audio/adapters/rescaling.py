"""What follows a low-rank update of a weight: nothing, or norms of rows and columns that are trained.

DoRA (Liu et al. 2024, equation 5) over rows or columns, and BoRA (Wang et al. 2024) over both. Weights are
matrices (out, in), kernels flattened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

_EPSILON = 1e-12


def _norms(weight: Tensor, axis: int) -> Tensor:
    return torch.linalg.vector_norm(weight, dim=axis)


def _rows(weight: Tensor, magnitude: Tensor) -> Tensor:
    return magnitude[:, None] * weight / (_norms(weight, 1)[:, None] + _EPSILON)


def _columns(weight: Tensor, magnitude: Tensor) -> Tensor:
    return weight / (_norms(weight, 0) + _EPSILON) * magnitude


class Squares(Protocol):
    """Sums of the squares of an updated weight V (out, in), found without making V."""

    def rows(self) -> Tensor:
        """(out,)"""
        ...

    def columns(self, factors: Tensor | None = None) -> Tensor:
        """(in,), of diag(factors) V, where factors is (out,)."""
        ...


class Scales(NamedTuple):
    """The rescaled weight is diag(outputs) V diag(inputs); None is all 1."""

    outputs: Tensor | None = None
    inputs: Tensor | None = None


class Rescaling:
    """No rescaling; base of the others.

    Attributes:
        axes: name of each trained vector of norms -> the axis over which these norms are taken.
    """

    axes: ClassVar[dict[str, int]] = {}

    def initial(self, weight: Tensor) -> dict[str, Tensor]:
        """The vectors with which `weight` (out, in) is rescaled to itself."""
        return {name: _norms(weight, axis) for name, axis in self.axes.items()}

    def __call__(self, weight: Tensor, vectors: Mapping[str, Tensor]) -> Tensor:
        """Rescale the updated weight (out, in) to the norms in `vectors`."""
        return weight

    def scales(self, squares: Squares, vectors: Mapping[str, Tensor]) -> Scales:
        """The same as factors of outputs and inputs."""
        return Scales()


class RowRescaling(Rescaling):
    """One norm for each output: diag(m) V / ||V||, norms of rows."""

    axes: ClassVar[dict[str, int]] = {"magnitude": 1}

    def __call__(self, weight: Tensor, vectors: Mapping[str, Tensor]) -> Tensor:
        return _rows(weight, vectors["magnitude"])

    def scales(self, squares: Squares, vectors: Mapping[str, Tensor]) -> Scales:
        return Scales(outputs=_factor(vectors["magnitude"], squares.rows()))


class ColumnRescaling(Rescaling):
    """One norm for each input: V / ||V|| diag(m), norms of columns."""

    axes: ClassVar[dict[str, int]] = {"magnitude": 0}

    def __call__(self, weight: Tensor, vectors: Mapping[str, Tensor]) -> Tensor:
        return _columns(weight, vectors["magnitude"])

    def scales(self, squares: Squares, vectors: Mapping[str, Tensor]) -> Scales:
        return Scales(inputs=_factor(vectors["magnitude"], squares.columns()))


class BothRescaling(Rescaling):
    """Rows, then columns, which undoes a part of the first step."""

    axes: ClassVar[dict[str, int]] = {"magnitude_r": 1, "magnitude_c": 0}

    def __call__(self, weight: Tensor, vectors: Mapping[str, Tensor]) -> Tensor:
        return _columns(_rows(weight, vectors["magnitude_r"]), vectors["magnitude_c"])

    def scales(self, squares: Squares, vectors: Mapping[str, Tensor]) -> Scales:
        outputs = _factor(vectors["magnitude_r"], squares.rows())
        return Scales(outputs, _factor(vectors["magnitude_c"], squares.columns(outputs)))


def _factor(magnitude: Tensor, squares: Tensor) -> Tensor:
    # Rounding may leave a negative sum of squares, and the root of 0 has no gradient.
    return magnitude / (squares.clamp(min=_EPSILON**2).sqrt() + _EPSILON)
