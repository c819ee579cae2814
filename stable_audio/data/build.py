"""A dataset file's dict -> the constructor's arguments."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any

from stable_audio.data.base import RUNTIME_KEYS, ClipDataset, DataError

_NOT_ARGUMENTS = ("dataset_type", "$schema")


def build_dataset(
    registry: Mapping[str, type[ClipDataset]], config: Mapping[str, Any], runtime: Mapping[str, Any]
) -> ClipDataset:
    """Build the dataset that `config["dataset_type"]` names.

    Raises:
        DataError: the type or a key is unknown, a key is missing, or there is nothing to read.
    """
    kind = str(config.get("dataset_type"))
    if kind not in registry:
        allowed_types = ", ".join(sorted(registry))
        raise DataError(f"$.dataset_type: found {kind!r}, allowed: {allowed_types}{_suggest(kind, registry)}")
    cls = registry[kind]
    given = {k: v for k, v in config.items() if k not in _NOT_ARGUMENTS}
    parameters = inspect.signature(cls).parameters
    hints = typing.get_type_hints(cls.__init__)
    allowed = [name for name in parameters if name not in RUNTIME_KEYS]
    _check_keys("$", given, allowed, [n for n in allowed if parameters[n].default is inspect.Parameter.empty])
    arguments = {k: _convert(f"$.{k}", v, hints[k]) for k, v in given.items()}
    needed = {k: v for k, v in runtime.items() if k in parameters}
    return cls(**arguments, **needed)


def _convert(path: str, value: Any, hint: Any) -> Any:
    """Turn dicts into the dataclass that the annotation asks for; everything else passes."""
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        fields = dataclasses.fields(hint)
        required = [
            f.name
            for f in fields
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        ]
        _check_keys(path, value, [f.name for f in fields], required)
        hints = typing.get_type_hints(hint)
        return hint(**{k: _convert(f"{path}.{k}", v, hints[k]) for k, v in value.items()})  # type: ignore[operator]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is list and isinstance(value, list):
        return [_convert(f"{path}[{i}]", v, arguments[0]) for i, v in enumerate(value)]
    if origin in (typing.Union, types.UnionType) and value is not None:
        inner = [a for a in arguments if a is not type(None)]
        return _convert(path, value, inner[0]) if len(inner) == 1 else value
    return value


def _check_keys(path: str, given: Mapping[str, Any], allowed: list[str], required: list[str]) -> None:
    for key in given:
        if key not in allowed:
            raise DataError(
                f"{path}.{key}: unknown key; allowed: {', '.join(allowed)}{_suggest(key, allowed)}"
            )
    missing = [key for key in required if key not in given]
    if missing:
        raise DataError(f"{path}: missing key {', '.join(repr(m) for m in missing)}")


def _suggest(name: Any, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
