"""JSON schemas of the files, by which editors complete keys, show hints and mark mistakes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Union

from pydantic import BaseModel, Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from stable_audio.config.sections.dataset import dataset_models
from stable_audio.config.sections.top import MODEL_TYPES

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
    return json.dumps(schema, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _schema(models: Mapping[str, type[BaseModel]], *, tag: str, title: str) -> dict[str, Any]:
    members = tuple(models.values())
    union: Any = Annotated[Union[members], Field(discriminator=tag)]  # noqa: UP007
    schema = TypeAdapter(union).json_schema(by_alias=True, schema_generator=_Untitled)
    return _canonical({"$schema": _DIALECT, "title": title, **schema})


def _canonical(value: Any) -> Any:
    """The schema in one form: versions of pydantic write bounds, references and constants differently."""
    if isinstance(value, list):
        return [_canonical(v) for v in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, dict):
        return value
    return {k: _canonical(v) for k, v in _unwrapped(value).items() if not _is_redundant(k, v, value)}


def _unwrapped(value: dict[str, Any]) -> dict[str, Any]:
    """`{"allOf": [X], ...}` is `{**X, ...}`."""
    only = value.get("allOf", ())
    if len(only) != 1:
        return value
    return {**only[0], **{k: v for k, v in value.items() if k != "allOf"}}


def _is_redundant(key: str, inner: Any, holder: dict[str, Any]) -> bool:
    repeated = key == "enum" and isinstance(inner, list) and holder.get("const") in inner
    return repeated or (key == "additionalProperties" and inner is True)
