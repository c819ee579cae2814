"""The view of a model file that a rule gets, and helpers to read plain data that may be wrong anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stable_audio.conditioning.inpainting import INPAINT_IDS
from stable_audio.config.reporting.problems import Loc
from stable_audio.config.rules.facts import Facts
from stable_audio.config.sections.diffusion import SLOT_KEYS
from stable_audio.config.sections.top import MODEL_TYPES
from stable_audio.types import Slot


@dataclass(frozen=True)
class Context:
    """The view of a model file that a rule gets.

    Attributes:
        data: the file.
        facts: the parts of the model, built on the meta device.
        extra_ids: ids that the caller supplies as tensors.
    """

    data: Mapping[str, Any]
    facts: Facts
    extra_ids: tuple[str, ...] = ()

    def get(self, *loc: str | int, default: Any = None) -> Any:
        """The value at `loc`, or `default` if there is none."""
        value: Any = self.data
        for part in loc:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return default
        return default if value is None else value

    @property
    def is_inpaint(self) -> bool:
        return self.data.get("model_type") == "diffusion_cond_inpaint"

    @property
    def diffusion_loc(self) -> Loc:
        """Where the backbone, its objective and its process are described."""
        return ("model", "diffusion") if isinstance(self.get("model", "diffusion"), dict) else ("model",)

    @property
    def conditioner_ids(self) -> list[str]:
        """Ids with a conditioner, in order, repetitions included."""
        entries = self.get("model", "conditioning", "configs", default=[])
        return [e["id"] for e in dicts(entries) if isinstance(e.get("id"), str)]

    @property
    def pre_encoded_ids(self) -> list[str]:
        return strings(self.get("model", "conditioning", "pre_encoded_keys", default=[]))

    @property
    def known_ids(self) -> list[str]:
        """Every id that may be wired to a slot; of a file of unknown type, those of inpainting too."""
        model_type = self.data.get("model_type")
        known = isinstance(model_type, str) and model_type in MODEL_TYPES
        inpaint = INPAINT_IDS if self.is_inpaint or not known else ()
        return [*dict.fromkeys([*self.conditioner_ids, *self.pre_encoded_ids, *inpaint, *self.extra_ids])]

    @property
    def ids_are_readable(self) -> bool:
        """Whether the lists of ids are lists; others are told as such, and may have had any id."""
        conditioning = mapping(self.data.get("model")).get("conditioning", {})
        if not isinstance(conditioning, dict):
            return conditioning is None
        lists = (conditioning.get(key, []) for key in ("configs", "pre_encoded_keys"))
        return all(isinstance(value, list) for value in lists)

    def slot_ids(self, slot: Slot) -> list[str]:
        """The ids wired to a slot."""
        return strings(self.get("model", "diffusion", SLOT_KEYS[slot], default=[]))

    @property
    def modular_ids(self) -> list[str]:
        """The ids of modular_local_cond_configs, '' where there is none."""
        return [e["id"] if isinstance(e.get("id"), str) else "" for e in self._modular]

    @property
    def modular_dims(self) -> list[int | None]:
        """The channels of modular_local_cond_configs, None where there are none."""
        return [e["dim"] if isinstance(e.get("dim"), int) else None for e in self._modular]

    @property
    def _modular(self) -> list[dict[str, Any]]:
        return dicts(self.get("model", "diffusion", "modular_local_cond_configs", default=[]))

    def width(self, key: str) -> int | None:
        """Features or channels of an id; None if only the metadata determines them."""
        if key in self.pre_encoded_ids or key in self.extra_ids:
            return None
        if self.is_inpaint and key in INPAINT_IDS:
            channels = self.get("model", "io_channels")
            return 1 if key == INPAINT_IDS[0] else channels if isinstance(channels, int) else None
        return self.facts.widths.get(key)


Rule = Callable[[Context], Iterator[tuple[Loc, str]]]
"""Yields the place and one sentence for everything that does not hold."""


def dicts(value: Any) -> list[dict[str, Any]]:
    return [v if isinstance(v, dict) else {} for v in value] if isinstance(value, list) else []


def strings(value: Any) -> list[str]:
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
