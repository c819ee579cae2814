"""Where an adapter comes from: the model that it changes, the clips, the config and the step of its training.

The file of an adapter has it as JSON in its metadata, under `passport`, which other programs ignore.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar, get_type_hints

PASSPORT = "passport"

Part = TypeVar("Part")


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """The model that an adapter was trained on.

    Attributes:
        name: of its file or repository, for people.
        path: where its file was: an absolute path, or the name of a file on the Hugging Face hub.
        hash: of its weights, see `stable_audio.adapters.base.base_hash`.
    """

    name: str
    path: str
    hash: str


@dataclass(frozen=True, kw_only=True)
class TrainingClips:
    """The clips that an adapter was trained on.

    Attributes:
        hash: of the list of their files.
        clips: their number.
    """

    hash: str
    clips: int


@dataclass(frozen=True, kw_only=True)
class Passport:
    """What an adapter comes from; None is unknown.

    Attributes:
        base: the model that it changes.
        data: the clips that it was trained on.
        config_hash: of the config of its run, see the function of this name.
        step: optimizer steps of its training.
        seed: of the run's random draws.
        software: program and version that trained it.
    """

    base: BaseModel | None = None
    data: TrainingClips | None = None
    config_hash: str | None = None
    step: int | None = None
    seed: int | None = None
    software: str | None = None

    def as_json(self) -> str:
        """As the metadata of a file have it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Passport:
        """The passport in the metadata of a file; entries that this program does not know are left out.

        Raises:
            ValueError: it is no passport.
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"found a {type(values).__name__}, but an object is needed")
        parts = {"base": BaseModel, "data": TrainingClips}
        known = {f.name: values.get(f.name) for f in fields(cls)}
        return cls(
            **{key: _entry(key, value, parts[key]) for key, value in known.items() if key in parts},
            **{key: _plain(cls, key, value) for key, value in known.items() if key not in parts},
        )


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of a config as JSON, in whatever order its keys are."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()


def _entry(key: str, value: Any, kind: type[Part]) -> Part | None:
    if value is None:
        return None
    names = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(value, Mapping) or not names <= value.keys():
        raise ValueError(f"{key}: found {value!r}, but an object with {', '.join(sorted(names))} is needed")
    return kind(**{name: _plain(kind, name, value[name], key) for name in names})


def _plain(owner: type, key: str, value: Any, within: str = "") -> Any:
    allowed = get_type_hints(owner)[key]
    if not isinstance(value, allowed) or isinstance(value, bool):
        raise ValueError(f"{within and within + '.'}{key}: found {value!r}, which is of another type")
    return value
