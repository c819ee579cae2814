"""JSON schemas of the files, by which editors complete keys, show hints and mark mistakes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Union

from pydantic import BaseModel, Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from stable_audio.config.sections.dataset import dataset_models
from stable_audio.config.sections.top import MODEL_TYPES

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DEFINITION = "#/$defs/"
_NUMBERED = re.compile(r"(.+)__(\d+)")


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
    return _numbered(_canonical({"$schema": _DIALECT, "title": title, **schema}))


def _numbered(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with definitions of one name numbered by what they say: pydantic numbers them as it meets
    them, which depends on what else the process has built."""
    definitions = schema["$defs"]
    groups: dict[str, list[str]] = {}
    for name in definitions:
        if (numbered := _NUMBERED.fullmatch(name)) is not None:
            groups.setdefault(numbered[1], []).append(name)
    names: dict[str, str] = {}
    for name, alike in groups.items():
        alike.sort(key=lambda name: json.dumps(definitions[name], sort_keys=True))
        names |= {old: f"{name}__{number}" for number, old in enumerate(alike, start=1)}
    return _renamed({**schema, "$defs": {names.get(k, k): v for k, v in definitions.items()}}, names)


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """The schema with references to definitions by their new names."""
    if isinstance(value, list):
        return [_renamed(v, names) for v in value]
    if isinstance(value, dict):
        return {k: _renamed(v, names) for k, v in value.items()}
    name = value.removeprefix(_DEFINITION) if isinstance(value, str) else ""
    return _DEFINITION + names[name] if name in names and name != value else value


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
