"""Find mistakes in the options of an optimizer or LR scheduler before it is built."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from stable_audio.wording import did_you_mean, excerpt


def option_mistakes(cls: type, options: Mapping[str, Any]) -> dict[str, str]:
    """Option -> what is wrong with it: unknown, missing, or of another type than its default, which torch
    would not notice."""
    # Skip the first parameter: what is optimized or scheduled.
    parameters = dict([*inspect.signature(cls).parameters.items()][1:])
    unknown = {
        name: f"unknown option of {cls.__name__}; {did_you_mean(name, parameters)}"
        for name in options
        if name not in parameters
    }
    wrong = {name: _mistake(cls, parameter, options) for name, parameter in parameters.items()}
    return {**unknown, **{name: message for name, message in wrong.items() if message is not None}}


def _mistake(cls: type, parameter: inspect.Parameter, options: Mapping[str, Any]) -> str | None:
    if parameter.name not in options:
        required = parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        return f"missing; {cls.__name__} needs it" if required else None
    value, rule = options[parameter.name], _type_rule(parameter.default)
    if rule is None or rule[1](value):
        return None
    return f"found {excerpt(value)}; expected {rule[0]}"


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _type_rule(default: Any) -> tuple[str, Callable[[Any], bool]] | None:
    """The type of a default value, in words and as a predicate; None if the default does not reveal it."""
    if isinstance(default, bool):
        return "true or false", lambda v: isinstance(v, bool)
    if _number(default):
        return "a number", _number
    if isinstance(default, str):
        return "a string", lambda v: isinstance(v, str)
    if isinstance(default, tuple) and all(map(_number, default)):
        count = len(default)
        return (
            f"a list of {count} numbers",
            lambda v: isinstance(v, (list, tuple)) and len(v) == count and all(map(_number, v)),
        )
    return None
