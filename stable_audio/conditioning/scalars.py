"""Conditioners for numbers and for choices from a list."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stable_audio.conditioning.base import Conditioner, Layout
from stable_audio.conditioning.values import NumberValue, TextValue, excerpt, number
from stable_audio.nn.embeddings import ExpoFourierFeatures
from stable_audio.nn.precision import parameter_dtype
from stable_audio.nn.transfer import to_device

logger = logging.getLogger(__name__)


MOST_REPORTED = 100
"""Values without a row that are named in the log."""


class _VectorConditioner(Conditioner):
    @property
    def layout(self) -> Layout:
        return "vector"


class IntConditioner(_VectorConditioner):
    """A learned embedding per integer.

    Args:
        min_val: smallest value; smaller ones are clamped to it.
        max_val: largest value; larger ones are clamped to it.
        legacy_index: use the value itself as the row instead of `value - min_val`, as stable-audio-tools
            does; only for its checkpoints with `min_val` above 0. Values beyond the last row then share it.
    """

    def __init__(
        self,
        *,
        output_dim: int,
        min_val: int = 0,
        max_val: int = 512,
        legacy_index: bool = False,
    ) -> None:
        super().__init__(dim=output_dim, output_dim=output_dim)
        if max_val < min_val:
            raise ValueError(f"max_val is {max_val}, below min_val {min_val}; give max_val >= min_val")
        self.min_val, self.max_val, self.legacy_index = min_val, max_val, legacy_index
        self.int_embedder = nn.Embedding(max_val - min_val + 1, output_dim)
        self.range = _Range(min_val, max_val, integer=True)

    def value_rule(self) -> NumberValue:
        return self.range.rule

    def forward(self, values: list[Any], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """b integers -> (b 1 d), mask (b 1)."""
        clamped = torch.tensor(self.range(values, self.key))
        rows = clamped if self.legacy_index else clamped - self.min_val
        rows = rows.clamp(0, self.int_embedder.num_embeddings - 1)
        return _single_token(self.int_embedder(to_device(rows, device)))


class NumberConditioner(_VectorConditioner):
    """Fourier features of a number, then a linear layer.

    Args:
        min_val: lower end of the range; values are clamped to it and scaled to [0, 1].
        max_val: upper end of the range.
        fourier_features_type: `learned` frequencies (drawn once, trained), or `expo`: fixed frequencies,
            log-spaced from 0.5 to 10,000, without parameters.
    """

    def __init__(
        self,
        *,
        output_dim: int,
        min_val: float = 0.0,
        max_val: float = 1.0,
        fourier_features_type: Literal["learned", "expo"] = "learned",
    ) -> None:
        super().__init__(dim=output_dim, output_dim=output_dim)
        if max_val <= min_val:
            raise ValueError(f"max_val is {max_val}, not above min_val {min_val}; give max_val > min_val")
        self.min_val, self.max_val = min_val, max_val
        self.embedder = NumberEmbedder(output_dim, features=_FOURIER_FEATURES[fourier_features_type]())
        self.range = _Range(min_val, max_val, integer=False)

    def value_rule(self) -> NumberValue:
        return self.range.rule

    def forward(self, values: list[Any], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """b numbers -> (b 1 d), mask (b 1)."""
        numbers = torch.tensor(self.range(values, self.key), dtype=torch.float32)
        # Clamp again, since float32 may round the ends of the range outwards.
        scaled = (numbers.clamp(self.min_val, self.max_val) - self.min_val) / (self.max_val - self.min_val)
        return _single_token(self.embedder(to_device(scaled, device)))


class ListConditioner(_VectorConditioner):
    """A learned embedding per option; all other values share row 0.

    Args:
        options: the values with rows of their own.
    """

    def __init__(self, *, output_dim: int, options: list[str]) -> None:
        super().__init__(dim=output_dim, output_dim=output_dim)
        self.rows = {option: row for row, option in enumerate(options, start=1)}
        if len(self.rows) != len(options):
            raise ValueError(f"options repeat a value: {options}")
        self._reported: set[str] = set()
        self.embedder = nn.Embedding(len(options) + 1, output_dim)

    def value_rule(self) -> TextValue:
        return TextValue(boolean=True)

    def forward(self, values: list[Any], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """b strings -> (b 1 d), mask (b 1)."""
        labels = [_label(v) for v in values]
        self._report({v for v in labels if v not in self.rows})
        rows = torch.tensor([self.rows.get(v, 0) for v in labels])
        return _single_token(self.embedder(to_device(rows, device)))

    def _report(self, unknown: set[str]) -> None:
        """Warn of each value once, and of the first ones alone: titles may differ from clip to clip."""
        new = sorted(unknown - self._reported)[: MOST_REPORTED - len(self._reported)]
        if not new:
            return
        self._reported.update(new)
        last = len(self._reported) == MOST_REPORTED
        more = "; further ones are not named" if last else ""
        logger.warning("%s not in the options %s: the 'unknown' row is used%s", new, list(self.rows), more)


_SLACK = 0.01
"""Share of a range by which numbers may lie beyond it without a warning."""


class _Range:
    """Clamps numbers to a range, warns once, and counts the clamped ones.

    Attributes:
        beyond: number of values outside the range so far.
    """

    def __init__(self, low: float, high: float, *, integer: bool) -> None:
        self.rule, self.integer = NumberValue(low, high), integer
        self.beyond = 0
        self._told = False

    def __call__(self, values: list[Any], key: str | None) -> list[float]:
        low, high, exact = self.rule.low, self.rule.high, [number(v) for v in values]
        outside = [v for v, n in zip(values, exact) if not low <= n <= high]
        # A clip of whole latent frames may be a little longer than the range: not worth a word.
        slack = 0 if self.integer else _SLACK * (high - low)
        far = [v for v, n in zip(values, exact) if not low - slack <= n <= high + slack]
        if far and not self._told:
            self._told = True
            logger.warning(
                "%s%s lies outside %s to %s and is clamped, as all such values are from here on; give "
                "one in this range (data-report --model-config counts those of a dataset)",
                "" if key is None else f"'{key}' ",
                excerpt(far[0]),
                low,
                high,
            )
        self.beyond += len(outside)
        clamped = [min(max(n, low), high) for n in exact]
        return [int(n) for n in clamped] if self.integer else clamped


def _label(value: Any) -> str:
    """A value as text: tables and JSON may hold labels such as 1990 or true as numbers or booleans."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class LearnedFourier(nn.Module):
    """x (b,) -> [x, sin(2 pi x w), cos(2 pi x w)] (b 257) with 128 trained frequencies w."""

    dim = 257

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn((self.dim - 1) // 2))

    def forward(self, x: Tensor) -> Tensor:
        angle = 2 * math.pi * x.unsqueeze(-1) * self.weights
        return torch.cat([x.unsqueeze(-1), angle.sin(), angle.cos()], dim=-1)


_FOURIER_FEATURES = {"learned": LearnedFourier, "expo": ExpoFourierFeatures}


class NumberEmbedder(nn.Module):
    """Numbers in [0, 1] -> features. Sine comes before cosine here, unlike in the timestep features."""

    def __init__(self, output_dim: int, *, features: LearnedFourier | ExpoFourierFeatures) -> None:
        super().__init__()
        self.embedding = nn.Sequential(features, nn.Linear(features.dim, output_dim))

    def forward(self, x: Tensor) -> Tensor:
        """x (b,) -> (b d), in the dtype of the weights; the angles are computed in float32."""
        features, linear = self.embedding[0], self.embedding[1]
        return linear(features(x.float()).to(parameter_dtype(linear)))


def _single_token(embedding: Tensor) -> tuple[Tensor, Tensor]:
    mask = torch.ones(len(embedding), 1, dtype=torch.bool, device=embedding.device)
    return embedding.unsqueeze(1), mask


__all__: Sequence[str] = ["IntConditioner", "ListConditioner", "NumberConditioner", "NumberEmbedder"]
