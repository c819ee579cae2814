"""Sounds that requests name: by the identifier of an upload or a result, never by a path."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from stable_audio.inference.generation.condition_sounds import sound_conditioners
from stable_audio.inference.rendering.recipe import InputFile
from stable_audio.inference.rendering.steering import SteeringFiles
from stable_audio.model import DiffusionModel

ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class StoredSound:
    """A sound on the disk of the service.

    Attributes:
        path: its file.
        digest: of the file as it came, for recipes.
    """

    path: str
    digest: str


class RequestSounds(SteeringFiles):
    """The sounds of a request.

    Args:
        find: identifier -> sound; raises ValueError for one that there is not.

    Attributes:
        used: those that were asked for.
    """

    def __init__(self, find: Callable[[str], StoredSound]) -> None:
        super().__init__()
        self._find = find
        self.used: dict[str, StoredSound] = {}

    def stored(self, id: Any) -> StoredSound:
        """The sound of an identifier.

        Raises:
            ValueError: it is none, or there is no such sound.
        """
        if not isinstance(id, str) or not ID.fullmatch(id):
            raise ValueError(f"a sound is named by the id of an upload or of a job, found {id!r:.60}")
        if id not in self.used:
            self.used[id] = self._find(id)
        return self.used[id]

    def read(self, path: str | Path) -> tuple[Tensor, int]:
        """(samples (c n), sample rate) of an identifier."""
        return super().read(self.stored(path).path)

    def file(self, path: str | Path) -> InputFile:
        """An identifier and the digest of its sound, for recipes."""
        return InputFile(str(path), self.stored(path).digest)

    def located(self, model: DiffusionModel, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Metadata with files in place of the identifiers that conditioners of sounds read.

        Raises:
            ValueError: a value for such a conditioner is no identifier of a sound.
        """
        keys = set(sound_conditioners(model))
        if model.conditioner is not None:
            keys |= {other for name, other in model.conditioner.default_keys.items() if name in keys}
        return {
            key: self._located(value, key) if key in keys and value is not None else value
            for key, value in metadata.items()
        }

    def _located(self, value: Any, key: str) -> Any:
        if isinstance(value, Mapping):
            return {name: self._located(v, f"{key}.{name}") for name, v in value.items()}
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        try:
            return self.stored(value).path
        except ValueError as error:
            raise ValueError(f"'{key}': {error}") from error
