"""Constructors -> schemas: the keyword-only, annotated `__init__` of a component IS its JSON schema.

`leaf_model(DiT)` is a pydantic model with one field per constructor argument, same names, types and
defaults. Nested dataclasses become nested objects. `arguments` goes the other way.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, ClassVar, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, create_model
from torch import nn


class Section(BaseModel):
    """Base of every object of a configuration: unknown keys are mistakes, types are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


class Leaf(Section):
    """Base of the derived models; `target` is the class whose constructor they describe."""

    target: ClassVar[Any]


@functools.cache
def leaf_model(cls: Any, *, provided: tuple[str, ...] = (), hidden: tuple[str, ...] = ()) -> type[Leaf]:
    """Derive the model of a class or dataclass.

    Args:
        provided: arguments that the factory supplies unless the file gives them, so they are optional.
        hidden: arguments that only the factory supplies, so they are no JSON keys.

    Raises:
        TypeError: an argument has no annotation, or one that JSON cannot express.
    """
    hints = typing.get_type_hints(cls if dataclasses.is_dataclass(cls) else cls.__init__)  # type: ignore[misc]
    parameters = _parameters(cls)
    documented = _documented_arguments(inspect.getdoc(cls) or "", parameters)
    fields: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if name in hidden:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{cls.__name__}(*{name}): every argument of a component must be named")
        annotation = _json_type(hints.get(name), f"{cls.__name__}({name}=...)")
        default = _default(parameter, annotation)
        if name in provided and default is ...:
            annotation, default = annotation | None, None
        fields[name] = (annotation, _field(default, documented.get(name)))
    model = create_model(cls.__name__, __base__=Leaf, __module__=__name__, **fields)
    model.target = cls
    return model


def joined_leaf(name: str, *models: type[Leaf]) -> type[Leaf]:
    """One model with the fields of several, for constructors that pass their keywords on."""
    fields: dict[str, Any] = {n: (f.annotation, f) for m in models for n, f in m.model_fields.items()}
    return create_model(name, __base__=Leaf, __module__=__name__, **fields)


def arguments(leaf: Leaf) -> dict[str, Any]:
    """Constructor keywords that the file gave; what it left out keeps the constructor's default."""
    given = (name for name in type(leaf).model_fields if name in leaf.model_fields_set)
    return {name: _plain(getattr(leaf, name)) for name in given}


def _plain(value: Any) -> Any:
    if isinstance(value, Leaf):
        return value.target(**arguments(value))
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(v) for v in value)
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _field(default: Any, description: str | None) -> Any:
    # As a factory, so that the JSON schema does not repeat the defaults of a nested object.
    if isinstance(default, Leaf):
        return Field(default_factory=lambda: default, description=description)
    return Field(default, description=description)


def _parameters(cls: Any) -> Mapping[str, inspect.Parameter]:
    """Arguments of the constructor; none for a class that has no constructor of its own."""
    if cls.__init__ in (nn.Module.__init__, object.__init__):
        return {}
    return inspect.signature(cls).parameters


def _default(parameter: inspect.Parameter, annotation: Any) -> Any:
    if parameter.default is inspect.Parameter.empty:
        return ...
    # A frozen options object means "all its defaults": in JSON an object with nothing in it.
    if dataclasses.is_dataclass(parameter.default):
        options: Any = type(parameter.default)
        return leaf_model(options).model_construct(_fields_set=set())
    is_list = typing.get_origin(annotation) is list
    return list(parameter.default) if is_list and parameter.default is not None else parameter.default


_SCALARS = (int, float, bool, str, type(None))
_LISTS = {list: list, collections.abc.Sequence: list, collections.abc.Iterable: list}


def _json_type(annotation: Any, where: str) -> Any:
    """The annotation that pydantic sees: dataclasses replaced by their derived models."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _SCALARS or annotation is Any or origin is Literal:
        return annotation
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return leaf_model(annotation)  # type: ignore[arg-type]
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return annotation
    if annotation in (list, tuple, dict):
        return annotation
    if origin in (Union, types.UnionType):
        return Union[tuple(_json_type(a, where) for a in args)]  # noqa: UP007
    if origin in _LISTS:
        return list[_json_type(args[0], where)]  # type: ignore[misc]
    if origin is tuple:
        return tuple[tuple(a if a is Ellipsis else _json_type(a, where) for a in args)]  # type: ignore[misc]
    if origin in (dict, collections.abc.Mapping):
        return dict[str, _json_type(args[1], where)]  # type: ignore[misc]
    raise TypeError(f"{where}: the annotation {annotation!r} cannot be given in JSON")


def _documented_arguments(doc: str, names: Iterable[str]) -> Mapping[str, str]:
    """Name -> text, from the `Args:` part of a docstring or, without one, from all of it.

    `a, b: text` documents both, and several arguments may share a line.
    """
    part = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    text = " ".join((part.group(1) if part else doc).split())
    name = "|".join(map(re.escape, names)) or "(?!)"
    pieces = re.split(rf"(?:^|(?<=[.;] ))((?:{name})(?:, (?:{name}))*): ", text)
    found: dict[str, str] = {}
    for label, description in zip(pieces[1::2], pieces[2::2]):
        found.update({n: description.strip() for n in label.split(", ")})
    return found
