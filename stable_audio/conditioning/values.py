"""Rules for metadata values, checked before a batch is collated.

Rules are small frozen objects without weights, so that they can be sent to worker processes.
"""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from stable_audio.characters import fault
from stable_audio.types import Metadata


class ValueRule(Protocol):
    """The rule of one conditioner for its value."""

    def refusal(self, value: Any) -> str | None:
        """The reason why the value cannot be used ("must be ..., found ..."), or None."""
        ...

    def beyond(self, value: Any) -> bool:
        """Whether the value is usable but outside the conditioner's range, so that it is clamped."""
        ...


@dataclass(frozen=True)
class AnyValue:
    """Any value.

    Attributes:
        null: accept None as well, for which the conditioner has an embedding.
    """

    null: bool = False

    def refusal(self, value: Any) -> str | None:
        return "is null" if value is None and not self.null else None

    def beyond(self, value: Any) -> bool:
        return False


@dataclass(frozen=True)
class SoundValue:
    """A tensor (c n), (rate, tensor), or the path of an existing file."""

    def refusal(self, value: Any) -> str | None:
        if isinstance(value, (str, os.PathLike)):
            return (
                None if os.path.isfile(value) else f"must be a sound or its file, but {value} does not exist"
            )
        if isinstance(value, (list, tuple)) and len(value) == 2:
            value = value[1]
        usable = isinstance(value, Tensor) and value.numel() > 0
        return None if usable else f"must be a sound (tensor or path), found {excerpt(value)}"

    def beyond(self, value: Any) -> bool:
        return False


@dataclass(frozen=True)
class SourcesValue:
    """A dict {source: sound or latents}.

    Attributes:
        null: accept None, which means no source.
    """

    null: bool = False

    def refusal(self, value: Any) -> str | None:
        usable = isinstance(value, Mapping) or (value is None and self.null)
        return None if usable else f"must be a dict {{source: sound}}, found {excerpt(value)}"

    def beyond(self, value: Any) -> bool:
        return False


@dataclass(frozen=True)
class TextValue:
    """Text of whole characters; a number is converted to text, since a table may hold a title such as 1999.

    Attributes:
        boolean: accept true and false as well.
    """

    boolean: bool = False

    def refusal(self, value: Any) -> str | None:
        usable = isinstance(value, (str, numbers.Real)) and (self.boolean or not isinstance(value, bool))
        if not usable:
            return f"must be text, found {excerpt(value)}"
        found = fault(value) if isinstance(value, str) else None
        return None if found is None else f"must be Unicode text, found {excerpt(value)} with {found}"

    def beyond(self, value: Any) -> bool:
        return False


@dataclass(frozen=True)
class NumberValue:
    """A finite number between low and high."""

    low: float
    high: float

    def refusal(self, value: Any) -> str | None:
        try:
            number(value)
        except ValueError as error:
            return str(error)
        return None

    def beyond(self, value: Any) -> bool:
        return not self.low <= number(value) <= self.high


@dataclass(frozen=True)
class VectorValue:
    """`size` finite numbers: a list, an array or a tensor."""

    size: int

    def refusal(self, value: Any) -> str | None:
        try:
            vector(value, self.size)
        except ValueError as error:
            return str(error)
        return None

    def beyond(self, value: Any) -> bool:
        return False


def vector(value: Any, size: int) -> Tensor:
    """A list, array or tensor of `size` finite numbers -> (size,) float32.

    Raises:
        ValueError: the value is something else.
    """
    try:
        values = torch.as_tensor(value, dtype=torch.float32, device="cpu").flatten()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"must be a list of {size} numbers, found {excerpt(value)}") from None
    if len(values) != size:
        raise ValueError(f"must be a list of {size} numbers, found {len(values)}")
    if not values.isfinite().all():
        raise ValueError(f"must be finite numbers, found {value!r:.80}")
    return values


def number(value: Any) -> float:
    """A number, text of a number or a tensor with one element -> float; whole numbers stay exact.

    Raises:
        ValueError: the value is something else, or not finite.
    """
    if isinstance(value, int):
        return value
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise ValueError(f"must be a number, found {excerpt(value)}") from None
    if not math.isfinite(result):
        raise ValueError(f"must be a finite number, found {excerpt(value)}")
    return result


@dataclass(frozen=True)
class ValueCheck:
    """Checks that a clip's metadata suffice for the conditioners of a model.

    Attributes:
        rules: conditioner id -> rule for its value.
        default_keys: conditioner id -> metadata key to read if the id itself is missing.
        optional: ids that may be missing, from all items of a batch.
    """

    rules: Mapping[str, ValueRule]
    default_keys: Mapping[str, str] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()

    def value(self, item: Metadata, key: str) -> Any:
        """The value that the conditioner `key` reads, or None. Lists of one are unwrapped."""
        value = item.get(key)
        if value is None and key in self.default_keys:
            value = item.get(self.default_keys[key])
        # Loaders wrap scalars in one-element lists; conditioners see the bare value.
        return value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value

    def values(self, metadata: Sequence[Metadata]) -> dict[str, list[Any]]:
        """The values that the conditioners read from a batch, by id, without optional ids that no item has.

        Raises:
            ValueError: an item lacks the key of a conditioner, or has an unusable value; all missing keys are
                named at once.
        """
        lacking = {n: ids for n, item in enumerate(metadata) if (ids := self.missing(item))}
        if lacking:
            item, ids = next(iter(lacking.items()))
            raise ValueError(
                f"{len(lacking)} of {len(metadata)} items lack conditioning; item {item} lacks {ids}. "
                f"The model needs {list(self.rules)}: give each a value or a 'default_keys' entry"
            )
        values = {key: [self.value(item, key) for item in metadata] for key in self._present(metadata)}
        for key in values:
            for position, value in enumerate(values[key]):
                if reason := self.rules[key].refusal(value):
                    raise ValueError(f"conditioner '{key}': the value of item {position} {reason}")
        return values

    def _present(self, metadata: Sequence[Metadata]) -> list[str]:
        """The ids to read: all but the optional ones that every item lacks."""
        present = []
        for key, rule in self.rules.items():
            lacking = [n for n, item in enumerate(metadata) if self._lacks(item, key, rule)]
            if key not in self.optional or not lacking:
                present.append(key)
            elif len(lacking) < len(metadata):
                raise ValueError(
                    f"conditioner '{key}': items {lacking} of {len(metadata)} lack it; it may be absent from "
                    "all items of a batch, not from some"
                )
        return present

    def missing(self, item: Metadata) -> list[str]:
        """The ids for which `item` has neither a value under the id nor under the default key."""
        return [i for i, rule in self.rules.items() if i not in self.optional and self._lacks(item, i, rule)]

    def _lacks(self, item: Metadata, key: str, rule: ValueRule) -> bool:
        if self.value(item, key) is not None:
            return False
        present = key in item or self.default_keys.get(key) in item
        return not present or rule.refusal(None) is not None

    def written_refusal(self, item: Metadata, key: str) -> str | None:
        """As `refusal` of the rule of `key`, for a value that somebody wrote: a text is written as one."""
        written = item.get(key)
        if written is None and key in self.default_keys:
            written = item.get(self.default_keys[key])
        rule = self.rules[key]
        if isinstance(rule, TextValue) and not rule.boolean and not isinstance(written, str):
            hint = "" if written is None else "; put a text in quotes"
            return f"must be text, found {excerpt(written)}{hint}"
        return rule.refusal(self.value(item, key))

    def refusal(self, item: Metadata) -> str | None:
        """The reason why the item cannot be used, with every faulty key, or None."""
        absent = self.missing(item)
        faults = [f"'{key}' is null" if key in item else f"lacks '{key}'" for key in absent]
        for key, rule in self.rules.items():
            left_out = key in absent or (key in self.optional and self._lacks(item, key, rule))
            if not left_out and (reason := rule.refusal(self.value(item, key))):
                faults.append(f"'{key}' {reason}")
        return ("; ".join(faults) + ", which the model's conditioning needs") if faults else None

    def beyond(self, item: Metadata) -> list[str]:
        """The ids whose value is clamped, for an item that `refusal` accepts."""
        rules = {i: r for i, r in self.rules.items() if i not in self.optional or not self._lacks(item, i, r)}
        return [i for i, rule in rules.items() if rule.beyond(self.value(item, i))]


def excerpt(value: Any, limit: int = 40) -> str:
    """A value for messages, shortened."""
    if value is None:
        return "null"
    if isinstance(value, (list, tuple, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else f"{text[:limit]}..."
