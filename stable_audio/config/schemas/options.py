"""Objects of keywords that a file gives beside the name of what takes them: `..._options`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from stable_audio.config.reporting.findings import findings_of
from stable_audio.config.reporting.problems import Loc
from stable_audio.config.schemas.leaf import Leaf, joined_leaf, leaf_model


def option_mistakes(model: type[Leaf], options: Mapping[str, Any]) -> list[tuple[Loc, str]]:
    """(place below the object, what is wrong there), of all mistakes."""
    try:
        model.model_validate_json(json.dumps(options))
    except ValidationError as error:
        return [(finding.loc, finding.message) for finding in findings_of(error, model, options)]
    return []


def extension_model(cls: type) -> type[Leaf]:
    """The keywords that the constructors of a class and its bases name, before they pass the rest on.

    These take `**options`; the first base that does not is what they extend, and its keywords are left out.

    Raises:
        TypeError: an argument has no annotation, or one that JSON cannot express.
    """
    models = []
    for base in (base for base in cls.__mro__ if "__init__" in vars(base)):
        parameters = inspect.signature(base).parameters.values()
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
        rest = (parameter.name for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY)
        models.append(leaf_model(base, hidden=tuple(rest)))
    return joined_leaf(f"{cls.__name__}Options", *models)
