"""Settings of an adapter, as its file stores them under `lora_config`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from stable_audio.adapters.updates import ADAPTER_TYPES, LEGACY_TYPES
from stable_audio.wording import did_you_mean, excerpt

SETTINGS = "lora_config"
"""Entry of files with the settings."""

_KINDS = {
    "rank": "a whole number",
    "alpha": "a number",
    "adapter_type": "a text",
    "dropout": "a number",
    "include": "a list of texts",
    "exclude": "a list of texts",
}
"""Entry of a file -> what it must be, if it is there."""


def _of_type(key: str, value: Any) -> bool:
    if key in ("include", "exclude"):
        return isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value)
    if key == "adapter_type":
        return isinstance(value, str)
    number = isinstance(value, int) or (isinstance(value, float) and key != "rank")
    return number and not isinstance(value, bool)


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """What an adapter is and where it goes.

    Attributes:
        rank: rank of the updates.
        alpha: updates are multiplied by alpha / rank; None: the rank.
        adapter_type: key of `ADAPTER_TYPES`.
        dropout: probability with which training leaves out an input feature of `lora_A`.
        include: parts of the names of layers that get it, see `patterns`; None: all.
        exclude: parts of the names of layers that do not.
    """

    rank: int = 8
    alpha: float | None = None
    adapter_type: str = "lora"
    dropout: float = 0.0
    include: Sequence[str] | None = None
    exclude: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.adapter_type not in ADAPTER_TYPES:
            raise ValueError(
                f"adapter_type: found '{self.adapter_type}'; {did_you_mean(self.adapter_type, ADAPTER_TYPES)}"
            )
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, found {self.rank}")
        if self.alpha is not None and not math.isfinite(self.alpha):
            raise ValueError(f"alpha must be a finite number, found {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, found {self.dropout}")

    @property
    def scaling(self) -> float:
        """Factor of the low-rank update."""
        return (self.rank if self.alpha is None else self.alpha) / self.rank

    def values(self) -> dict[str, Any]:
        """As JSON values, in the order of the files of stable-audio-3."""
        lists = {key: None if v is None else list(v) for key, v in self._lists().items()}
        alpha = self.rank if self.alpha is None else self.alpha
        return {
            "rank": self.rank,
            "alpha": alpha,
            "adapter_type": self.adapter_type,
            "dropout": self.dropout,
            **lists,
        }

    def _lists(self) -> dict[str, Sequence[str] | None]:
        return {"include": self.include, "exclude": self.exclude}

    @classmethod
    def from_values(
        cls, values: Mapping[str, Any], *, rank: int | None = None, magnitude: Sequence[int] | None = None
    ) -> AdapterSettings:
        """The settings that a file stores; keys that this program does not know are left out.

        Args:
            rank: that of the file's tensors, where the values have none.
            magnitude: shape of the file's first `magnitude`, which tells what the old type `dora` means.

        Raises:
            ValueError: an unknown type, or a value out of range.
        """
        names = {f.name for f in fields(cls)}
        known = {key: v for key, v in values.items() if key in names and v is not None}
        for key, value in known.items():
            if not _of_type(key, value):
                raise ValueError(f"{key}: found {excerpt(value)}; it must be {_KINDS[key]}")
        kind = known.get("adapter_type", "lora")
        if kind in LEGACY_TYPES:
            kind = LEGACY_TYPES[kind](magnitude)
        if "rank" not in known and rank is not None:
            known["rank"] = rank
        return cls(**{**known, "adapter_type": kind})
