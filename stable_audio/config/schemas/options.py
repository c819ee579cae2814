"""Objects of keywords that a file gives beside the name of what takes them: `..._options`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from stable_audio.config.reporting.findings import findings_of
from stable_audio.config.reporting.problems import Loc
from stable_audio.config.schemas.leaf import Leaf, leaf_model


def option_mistakes(model: type[Leaf], options: Mapping[str, Any]) -> list[tuple[Loc, str]]:
    """(place below the object, what is wrong there), of all mistakes."""
    try:
        model.model_validate_json(json.dumps(options))
    except ValidationError as error:
        return [(finding.loc, finding.message) for finding in findings_of(error, model, options)]
    return []


def extension_model(cls: type) -> type[Leaf]:
    """The keywords that the constructor of a subclass adds to those of its base.

    It names them, and takes the rest as `model` and `**options`; a class without a constructor of its own has
    none.

    Raises:
        TypeError: an argument has no annotation, or one that JSON cannot express.
    """
    if "__init__" not in vars(cls):
        return leaf_model(_Nothing)
    parameters = inspect.signature(cls).parameters.values()
    rest = (parameter.name for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY)
    return leaf_model(cls, hidden=tuple(rest))


class _Nothing:
    """Has no keywords."""
