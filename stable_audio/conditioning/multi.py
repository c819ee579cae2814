"""Run every conditioner of a model on the metadata of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio.conditioning.base import Conditioner
from stable_audio.conditioning.values import AnyValue, ValueCheck, ValueRule
from stable_audio.nn.transfer import to_device
from stable_audio.types import ConditionTensors, Metadata


class MultiConditioner(nn.Module):
    """Conditioners by id.

    Args:
        conditioners: id -> conditioner; it reads `metadata[id]`.
        default_keys: id -> metadata key to read for items that lack `id`.
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
        """b metadata dicts -> {id: (tensor, mask)} on `device`. Conditioners run where their weights are.

        Raises:
            ValueError: an item lacks the key of a conditioner, or has an unusable value; all missing keys are
                named at once.
        """
        check = self.value_check()
        self._check(metadata, check)
        tensors: ConditionTensors = {}
        for key, conditioner in self.conditioners.items():
            if key in self.pre_encoded_keys:
                continue
            try:
                values = [check.value(m, key) for m in metadata]
                tensors[key] = _run(conditioner, values, device)  # type: ignore[arg-type]
            except (TypeError, ValueError) as error:
                raise ValueError(f"conditioner '{key}': {error}") from error
        for key in self.pre_encoded_keys:
            stacked = torch.stack([_as_tensor(check.value(m, key)) for m in metadata])
            tensors[key] = (to_device(stacked, device), None)
        return tensors

    def ids(self) -> tuple[str, ...]:
        """Every id that the metadata must hold."""
        return (*self.conditioners, *(k for k in self.pre_encoded_keys if k not in self.conditioners))

    def missing(self, item: Metadata) -> list[str]:
        """The ids for which `item` has neither a value nor a default key; null counts as missing."""
        return self.value_check().missing(item)

    def value_check(self) -> ValueCheck:
        """A check of an item's metadata without weights, for the worker processes that load data."""
        rules: dict[str, ValueRule] = {
            i: AnyValue() if i in self.pre_encoded_keys else self.conditioners[i].value_rule()  # type: ignore[operator]
            for i in self.ids()
        }
        return ValueCheck(rules, dict(self.default_keys))

    def _check(self, metadata: Sequence[Metadata], check: ValueCheck) -> None:
        lacking = {n: m for n, item in enumerate(metadata) if (m := check.missing(item))}
        if lacking:
            item, ids = next(iter(lacking.items()))
            raise ValueError(
                f"{len(lacking)} of {len(metadata)} items lack conditioning; item {item} lacks {ids}. "
                f"The model needs {list(self.ids())}: give each a value or a 'default_keys' entry"
            )
        for key, rule in check.rules.items():
            for position, item_metadata in enumerate(metadata):
                if reason := rule.refusal(check.value(item_metadata, key)):
                    raise ValueError(f"conditioner '{key}': the value of item {position} {reason}")


def _as_tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(value)


def _run(
    conditioner: Conditioner, values: list[Any], device: torch.device | str
) -> tuple[Tensor, Tensor | None]:
    tensor, mask = conditioner(values, conditioner.device_or(device))
    return to_device(tensor, device), None if mask is None else to_device(mask, device)
