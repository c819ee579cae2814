"""JSON schemas of the files, for editors: completion, hints and red lines while typing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Union

from pydantic import BaseModel, Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from stable_audio.config.dataset import dataset_models
from stable_audio.config.top import MODEL_TYPES

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _Untitled(GenerateJsonSchema):
    """Without the titles that only repeat the keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def model_schema() -> dict[str, Any]:
    """Schema of model files."""
    return _schema(MODEL_TYPES, tag="model_type", title="Stable Audio model")


def dataset_schema() -> dict[str, Any]:
    """Schema of dataset files."""
    return _schema(dataset_models(), tag="dataset_type", title="Stable Audio dataset")


def schema_text(schema: Mapping[str, Any]) -> str:
    """The text of a schema file."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _schema(models: Mapping[str, type[BaseModel]], *, tag: str, title: str) -> dict[str, Any]:
    members = tuple(models.values())
    union: Any = Annotated[Union[members], Field(discriminator=tag)]  # noqa: UP007
    schema = TypeAdapter(union).json_schema(by_alias=True, schema_generator=_Untitled)
    return {"$schema": _DIALECT, "title": title, **schema}
