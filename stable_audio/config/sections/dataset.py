"""Dataset files: one model per `dataset_type`, derived from the constructor of the dataset class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, PrivateAttr, create_model

from stable_audio.config.reporting.problems import UNNAMED
from stable_audio.config.schemas.leaf import Leaf, arguments, leaf_model
from stable_audio.data import DATASETS, RUNTIME_KEYS


class DatasetConfig(Leaf):
    """A dataset file; the models of the types have its keys."""

    dataset_type: str

    _source: str = PrivateAttr(default=UNNAMED)

    @property
    def source(self) -> str:
        """Name of the file, for messages."""
        return self._source

    def as_dict(self) -> dict[str, Any]:
        """The JSON form: exactly the keys of the file."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def constructor_keywords(self) -> dict[str, Any]:
        """Keywords for the constructor of the dataset's class from the file, nested options as objects."""
        return {k: v for k, v in arguments(self).items() if k not in FILE_KEYS}


FILE_KEYS = ("schema_", "dataset_type")
"""Keys of every file; all others are keywords of the dataset's constructor."""


def dataset_models(registry: Mapping[str, type] = DATASETS) -> dict[str, type[DatasetConfig]]:
    """`dataset_type` -> model of the whole file."""
    return {name: _dataset_model(name, cls) for name, cls in registry.items()}


def _dataset_model(name: str, cls: type) -> type[DatasetConfig]:
    model: Any = create_model(
        f"dataset_{name}",
        __base__=(leaf_model(cls, hidden=RUNTIME_KEYS), DatasetConfig),
        __module__=__name__,
        schema_=(str | None, Field(default=None, alias="$schema", description="for editors; not read")),
        dataset_type=(Literal[name], ...),  # type: ignore[arg-type]
    )
    model.target = cls
    return model  # type: ignore[no-any-return]
