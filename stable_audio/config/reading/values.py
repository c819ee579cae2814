"""Plain data -> an instance of any dataclass: for files that are not configurations, such as recipes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from pydantic import ValidationError

from stable_audio.config.reporting.findings import findings_of
from stable_audio.config.reporting.problems import ConfigError, Loc, Problem, json_path
from stable_audio.config.schemas.leaf import arguments, leaf_model

T = TypeVar("T")


def dataclass_from(values: Any, kind: type[T], *, source: str, at: Loc = ()) -> T:
    """Build the dataclass `kind` from a JSON object; types are checked, not converted.

    Args:
        source: name of the file for messages.
        at: JSON path of the object in the file.

    Raises:
        ConfigError: every value of the wrong type, every missing and every unknown key.
    """
    if not isinstance(values, dict):
        json_type = "nothing" if values is None else f"a {type(values).__name__}"
        raise ConfigError([Problem(json_path(at), f"an object is needed here, found {json_type}")], source)
    model = leaf_model(kind)  # type: ignore[arg-type]
    readable = _translated(values, _TO_STAND_INS)
    try:
        leaf = model.model_validate_json(json.dumps(readable))
    except ValidationError as error:
        findings = findings_of(error, model, values)
        raise ConfigError([Problem(json_path((*at, *f.loc)), f.message) for f in findings], source) from error
    found = arguments(leaf)
    return kind(**(found if readable == values else _translated(found, _FROM_STAND_INS)))


# pydantic refuses JSON with half a surrogate pair, which the path of a file can have.
_TO_STAND_INS = {half: half + 0x102000 for half in range(0xD800, 0xE000)}
"""Halves of surrogate pairs -> the last characters for private use, U+10F800 to U+10FFFF."""

_FROM_STAND_INS = {stand_in: half for half, stand_in in _TO_STAND_INS.items()}


def _translated(value: Any, table: Mapping[int, int]) -> Any:
    """The value with the characters of all texts replaced, in keys and fields of dataclasses as well."""
    if isinstance(value, str):
        return value if value.isascii() else value.translate(table)
    if isinstance(value, dict):
        return {_translated(key, table): _translated(item, table) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_translated(item, table) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {field.name: _translated(getattr(value, field.name), table) for field in fields(value)}
        return dataclasses.replace(value, **changed)
    return value
