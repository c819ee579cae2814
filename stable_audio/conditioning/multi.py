"""Run every conditioner of a model on the metadata of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio.conditioning.base import Conditioner
from stable_audio.conditioning.preparation import TextPreparation
from stable_audio.conditioning.pretrained.conditioner import TextFeatures
from stable_audio.conditioning.values import AnyValue, ValueCheck, ValueRule
from stable_audio.nn.transfer import to_device
from stable_audio.types import ConditionTensors, Metadata


class MultiConditioner(nn.Module):
    """Conditioners by id.

    Args:
        conditioners: id -> conditioner; it reads `metadata[id]`.
        default_keys: id -> metadata key to read for items that lack `id`.
        pre_encoded_keys: ids whose metadata is already the conditioning tensor; their mask is None.
        optional_ids: ids that a whole batch may lack, and which then have no tensor.
    """

    def __init__(
        self,
        conditioners: Mapping[str, Conditioner],
        *,
        default_keys: Mapping[str, str] | None = None,
        pre_encoded_keys: Sequence[str] = (),
        optional_ids: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.conditioners = nn.ModuleDict(dict(conditioners))
        for key, part in conditioners.items():
            part.key = key
        self.default_keys = dict(default_keys or {})
        self.pre_encoded_keys = tuple(pre_encoded_keys)
        rules: dict[str, ValueRule] = {key: part.value_rule() for key, part in conditioners.items()}
        rules.update(dict.fromkeys(pre_encoded_keys, AnyValue()))
        self._check = ValueCheck(rules, self.default_keys, frozenset(optional_ids))

    def forward(self, metadata: Sequence[Metadata], device: torch.device | str) -> ConditionTensors:
        """b metadata dicts -> {id: (tensor, mask)} on `device`. Conditioners run where their weights are.

        Raises:
            ValueError: an item lacks the key of a conditioner, or has an unusable value; all missing keys are
                named at once.
        """
        values, target = self._check.values(metadata), torch.device(device)
        tensors: ConditionTensors = {}
        for key, conditioner in self.conditioners.items():
            if key in self.pre_encoded_keys or key not in values:
                continue
            try:
                tensor, mask = conditioner(values[key], conditioner.device_or(target))  # type: ignore[operator]
            except (TypeError, ValueError) as error:
                raise ValueError(f"conditioner '{key}': {error}") from error
            tensors[key] = _on(target, tensor), None if mask is None else _on(target, mask)
        for key in [k for k in self.pre_encoded_keys if k in values]:
            tensors[key] = _on(target, _stacked(key, values[key])), None
        return tensors

    def read_next(self, metadata: Sequence[Metadata], device: torch.device | str) -> None:
        """Let frozen encoders read the texts of the next batch, so that `forward` finds them read.

        Metadata that `forward` would refuse is left to it.
        """
        try:
            values = self._check.values(metadata)
        except ValueError:
            return
        target = torch.device(device)
        for key, part in self.conditioners.items():
            if isinstance(part, TextFeatures) and key in values and key not in self.pre_encoded_keys:
                part.read_next(values[key], part.device_or(target))

    @property
    def may_rest(self) -> bool:
        """Whether some conditioners have no part in a batch that lacks their ids."""
        return bool(self._check.optional)

    def ids(self) -> tuple[str, ...]:
        """Every id that the metadata must hold."""
        return tuple(key for key in self._check.rules if key not in self._check.optional)

    def missing(self, item: Metadata) -> list[str]:
        """The ids for which `item` has neither a value nor a default key; null counts as missing."""
        return self._check.missing(item)

    def cache_texts(self, folder: Path) -> list[str]:
        """Keep what frozen encoders make of texts in `folder`; returns the ids of their conditioners."""
        return [key for key, part in self._of_texts().items() if part.cache_texts(folder)]

    def uncached_texts(self) -> list[str]:
        """Ids of the conditioners that read each text again and again, and need not: see `cache_texts`."""
        return [key for key, part in self._of_texts().items() if not part.trains and part.cache is None]

    def _of_texts(self) -> dict[str, TextFeatures]:
        return {key: part for key, part in self.conditioners.items() if isinstance(part, TextFeatures)}

    def read_texts_ahead(
        self, metadata: Sequence[Metadata], device: torch.device | str
    ) -> dict[str, tuple[int, int]]:
        """Let the encoders whose features `cache_texts` keeps read the texts of items on `device`, one after
        the other; items without a text are passed over.

        Returns:
            id -> (texts that were read, texts that had been read before).
        """
        counts = {}
        for key, part in self.conditioners.items():
            if not isinstance(part, TextFeatures) or part.cache is None:
                continue
            keys = (key, self.default_keys.get(key, key))
            values = [next((item[k] for k in keys if item.get(k) is not None), None) for item in metadata]
            texts = list({str(value): value for value in values if value is not None}.values())
            read = part.read_ahead(texts, device)
            counts[key] = (read, len(texts) - read)
        return counts

    def text_preparation(self) -> TextPreparation | None:
        """What may be done with texts ahead of time, in other processes; None if there is nothing."""
        parts = {k: part for k, part in self.conditioners.items() if k not in self.pre_encoded_keys}
        tokens = {k: part.text_tokens() for k, part in parts.items() if isinstance(part, Conditioner)}
        tokens = {k: how for k, how in tokens.items() if how is not None}
        return TextPreparation(self._check, tokens) if tokens else None

    def value_check(self) -> ValueCheck:
        """A check of an item's metadata without weights, for the worker processes that load data."""
        return self._check


def _stacked(key: str, values: Sequence[Any]) -> Tensor:
    tensors = [torch.as_tensor(v) for v in values]
    if len({t.shape for t in tensors}) > 1:
        shapes = sorted({tuple(t.shape) for t in tensors})
        raise ValueError(f"pre-encoded '{key}': the items of a batch need one shape, found {shapes}")
    return torch.stack(tensors)


def _on(device: torch.device, tensor: Tensor) -> Tensor:
    return tensor if tensor.device == device else to_device(tensor, device)
