"""Plain data -> an instance of any dataclass, or every mistake: for files that are no configuration."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import ValidationError

from stable_audio.config.reporting.findings import findings_of
from stable_audio.config.reporting.problems import ConfigError, Loc, Problem, json_path
from stable_audio.config.schemas.leaf import arguments, leaf_model

T = TypeVar("T")


def dataclass_from(values: Any, kind: type[T], *, source: str, at: Loc = ()) -> T:
    """The dataclass `kind` with the values of a JSON object, types checked and not converted.

    Args:
        source: name of the file for messages.
        at: JSON path of the object in the file.

    Raises:
        ConfigError: every value of the wrong type, every missing and every unknown key.
    """
    if not isinstance(values, dict):
        kind_found = "nothing" if values is None else f"a {type(values).__name__}"
        raise ConfigError([Problem(json_path(at), f"an object is needed here, found {kind_found}")], source)
    model = leaf_model(kind)  # type: ignore[arg-type]
    try:
        leaf = model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        found = findings_of(error, model, values)
        raise ConfigError([Problem(json_path((*at, *f.loc)), f.message) for f in found], source) from error
    return kind(**arguments(leaf))
