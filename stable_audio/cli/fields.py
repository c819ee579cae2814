"""Flags for the fields of an options dataclass: name, type and default are those of the field."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import typing
from collections.abc import Mapping
from typing import Any


def add_field(group: Any, options: type, name: str, *earlier: str, **settings: Any) -> None:
    """Add the flag of a field: `--max-steps` for `max_steps`, `--no-demos` for a field that is True.

    Args:
        group: parser or group of a parser.
        options: dataclass with the field.
        earlier: other names that the flag has.
        settings: further arguments of `add_argument`, which take precedence. `default=None` is for a flag
            that something else stands in for, such as a key of a file.
    """
    default = _defaults(options)[name]
    flag, kind = name.replace("_", "-"), _types(options)[name]
    derived: dict[str, Any] = {"dest": name, "default": default}
    if kind is not bool:
        derived["type"] = kind
    elif "type" not in settings:
        derived["action"] = "store_false" if default else "store_true"
        flag = f"no-{flag}" if default else flag
    group.add_argument(f"--{flag}", *earlier, **{**derived, **settings})


def fields_from(args: argparse.Namespace, options: type) -> dict[str, Any]:
    """The fields of a dataclass that the arguments set, by name; those that are None keep their defaults."""
    return given(args, *(f.name for f in dataclasses.fields(options) if hasattr(args, f.name)))


def given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Keywords for the arguments that are not None; what is called has defaults for the others."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


@functools.cache
def _types(options: type) -> Mapping[str, type]:
    """Field -> its type, or for `X | None` X."""
    hints = typing.get_type_hints(options).items()
    return {
        name: next((a for a in typing.get_args(hint) if a is not type(None)), hint) for name, hint in hints
    }


@functools.cache
def _defaults(options: type) -> Mapping[str, Any]:
    """Field -> its default; None for one that is computed where the options are built."""
    fields = dataclasses.fields(options)
    return {f.name: None if f.default is dataclasses.MISSING else f.default for f in fields}
