"""Plain data -> an instance of any dataclass: for files that are not configurations, such as recipes."""

from __future__ import annotations

import json
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
    try:
        leaf = model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        findings = findings_of(error, model, values)
        raise ConfigError([Problem(json_path((*at, *f.loc)), f.message) for f in findings], source) from error
    return kind(**arguments(leaf))
