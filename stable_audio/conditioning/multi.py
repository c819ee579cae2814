"""Runs every conditioner of a model over the metadata of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio.conditioning.base import Conditioner
from stable_audio.nn.transfer import to_device
from stable_audio.types import ConditionTensors, Metadata


class MultiConditioner(nn.Module):
    """Conditioners by id.

    Args:
        conditioners: id -> conditioner; it reads `metadata[id]`.
        default_keys: id -> metadata key that is read for the items that lack `id`.
        pre_encoded_keys: ids whose metadata is already the conditioning tensor; their mask is None.
    """

    def __init__(
        self,
        conditioners: Mapping[str, Conditioner],
        *,
        default_keys: Mapping[str, str] | None = None,
        pre_encoded_keys: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.conditioners = nn.ModuleDict(dict(conditioners))
        self.default_keys = dict(default_keys or {})
        self.pre_encoded_keys = tuple(pre_encoded_keys)

    def forward(self, metadata: Sequence[Metadata], device: torch.device | str) -> ConditionTensors:
        """b metadata dicts -> {id: (tensor, mask)}.

        Raises:
            ValueError: some item lacks the key of some conditioner; all missing keys are named at once.
        """
        self._check(metadata)
        tensors: ConditionTensors = {}
        for key, conditioner in self.conditioners.items():
            if key in self.pre_encoded_keys:
                continue
            try:
                tensors[key] = conditioner([self._value(m, key) for m in metadata], device)
            except (TypeError, ValueError) as error:
                raise ValueError(f"conditioner '{key}': {error}") from error
        for key in self.pre_encoded_keys:
            stacked = torch.stack([_as_tensor(self._value(m, key)) for m in metadata])
            tensors[key] = (to_device(stacked, device), None)
        return tensors

    def ids(self) -> tuple[str, ...]:
        """Every id that the metadata must give."""
        return (*self.conditioners, *(k for k in self.pre_encoded_keys if k not in self.conditioners))

    def missing(self, item: Metadata) -> list[str]:
        """The ids that `item` neither has nor has a default key for."""
        return [i for i in self.ids() if i not in item and self.default_keys.get(i) not in item]

    def _check(self, metadata: Sequence[Metadata]) -> None:
        lacking = {n: m for n, item in enumerate(metadata) if (m := self.missing(item))}
        if lacking:
            item, ids = next(iter(lacking.items()))
            raise ValueError(
                f"{len(lacking)} of {len(metadata)} items lack conditioning; item {item} lacks {ids}. "
                f"The model needs {list(self.ids())}: give each a value or a 'default_keys' entry"
            )

    def _value(self, item: Metadata, key: str) -> Any:
        value = item[key] if key in item else item[self.default_keys[key]]
        # Loaders wrap scalars in one-element lists; conditioners see the bare value.
        return value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value


def _as_tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(value)
