"""Dataset files: one model per `dataset_type`, derived from the constructor of the dataset class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, create_model

from stable_audio.config.schemas.leaf import Leaf, leaf_model
from stable_audio.data import DATASETS, RUNTIME_KEYS


def dataset_models(registry: Mapping[str, type] = DATASETS) -> dict[str, type[Leaf]]:
    """`dataset_type` -> model of the whole file."""
    return {name: _dataset_model(name, cls) for name, cls in registry.items()}


def _dataset_model(name: str, cls: type) -> type[Leaf]:
    made = create_model(
        f"dataset_{name}",
        __base__=leaf_model(cls, hidden=RUNTIME_KEYS),
        __module__=__name__,
        schema_=(str | None, Field(default=None, alias="$schema", description="for editors; not read")),
        dataset_type=(Literal[name], ...),  # type: ignore[arg-type]
    )
    made.target = cls
    return made


def as_dict(config: Leaf) -> dict[str, Any]:
    """The JSON form: exactly the keys that were given."""
    return config.model_dump(mode="json", by_alias=True, exclude_unset=True)
