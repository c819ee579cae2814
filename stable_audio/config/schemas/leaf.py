"""Constructors -> schemas: the keyword-only, annotated `__init__` of a component IS its JSON schema.

`leaf_model(DiT)` is a pydantic model with one field per constructor argument, same names, types and
defaults. Nested dataclasses become nested objects; those annotated `Flat` give their fields to the object
around them. Ranges (`Annotated[int, Gt(0)]`) are those of the schema. `arguments` goes the other way.
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
from typing import Annotated, Any, ClassVar, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, create_model
from torch import nn

from stable_audio.options import NO_DEFAULT, Keyword, from_keywords, keywords_of

_PARTS = [re.compile(rf"^{p}:\n((?:[ \t]+.*\n?|\n)+)", re.MULTILINE) for p in ("Args", "Attributes")]
_LABEL = re.compile(r"(?:^|(?<=[.;] ))(\w+(?:, \w+)*): ")


class Section(BaseModel):
    """Base of every object of a configuration: unknown keys are mistakes, types are not converted."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, protected_namespaces=(), defer_build=True
    )


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
    keywords = _keywords(cls)
    documented: dict[str, str] = {}
    for owner in dict.fromkeys([*_declaring(cls), *(k.owner for k in keywords.values())]):
        names = {*keywords, *_signature_names(owner)}
        documented = {**_documented_arguments(inspect.getdoc(owner) or "", names), **documented}
    fields: dict[str, Any] = {}
    for name, keyword in keywords.items():
        if name in hidden:
            continue
        if keyword.variadic:
            raise TypeError(f"{cls.__name__}(*{name}): every argument of a component must be named")
        annotation = _json_type(keyword.annotation, f"{cls.__name__}({name}=...)")
        default = _default(keyword.default, annotation)
        if name in provided and default is ...:
            annotation, default = annotation | None, None
        fields[name] = (annotation, _field(default, documented.get(name)))
    model = create_model(cls.__name__, __base__=Leaf, __module__=__name__, **fields)
    model.target = cls
    return model


def keys_of(cls: Any, *, hidden: tuple[str, ...] = ()) -> type[Section]:
    """The arguments of a class as the base of a section that has other keys besides.

    Args:
        hidden: arguments that are no keys of the section, or that it states itself.
    """
    fields: dict[str, Any] = {
        n: (f.annotation, f) for n, f in leaf_model(cls, hidden=hidden).model_fields.items()
    }
    return create_model(f"{cls.__name__}Keys", __base__=Section, __module__=__name__, **fields)


def joined_leaf(name: str, *models: type[Leaf]) -> type[Leaf]:
    """One model with the fields of several, for constructors that pass their keywords on."""
    fields: dict[str, Any] = {n: (f.annotation, f) for m in models for n, f in m.model_fields.items()}
    return create_model(name, __base__=Leaf, __module__=__name__, **fields)


def arguments(leaf: Leaf) -> dict[str, Any]:
    """Constructor keywords for the keys of the file; the others keep the constructor's defaults."""
    names = (name for name in type(leaf).model_fields if name in leaf.model_fields_set)
    return {name: _plain(getattr(leaf, name)) for name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, Leaf):
        return from_keywords(value.target, arguments(value))
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


def _keywords(cls: Any) -> Mapping[str, Keyword]:
    """Arguments of the constructor; empty for a class without a constructor of its own."""
    return {} if cls.__init__ in (nn.Module.__init__, object.__init__) else keywords_of(cls)


def _declaring(cls: Any) -> Iterable[Any]:
    """The class and its bases up to the one that declares the constructor; of dataclasses all."""
    for base in inspect.getmro(cls):
        yield base
        if "__init__" in vars(base) and not dataclasses.is_dataclass(base):
            return


def _signature_names(cls: Any) -> Iterable[str]:
    """Names that a docstring may describe, including arguments whose fields are flattened."""
    return inspect.signature(cls).parameters if _keywords(cls) else ()


def _default(value: Any, annotation: Any) -> Any:
    if value is NO_DEFAULT:
        return ...
    # A frozen options object as default means all its defaults: in JSON an empty object.
    if dataclasses.is_dataclass(value):
        options: Any = type(value)
        return leaf_model(options).model_construct(_fields_set=set())
    is_list = typing.get_origin(annotation) is list
    return list(value) if is_list and value is not None else value


_SCALARS = (int, float, bool, str, type(None))
_LISTS = {list: list, collections.abc.Sequence: list, collections.abc.Iterable: list}


def _json_type(annotation: Any, where: str) -> Any:
    """The annotation that pydantic sees: dataclasses replaced by their derived models."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _SCALARS or annotation is Any or origin is Literal:
        return annotation
    if origin is Annotated:
        return Annotated[(_json_type(args[0], where), *annotation.__metadata__)]  # type: ignore[return-value]
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
    """Name -> text, from the `Args:` or the `Attributes:` of a docstring or, without either, from all of it.

    `a, b: text` documents both, and several arguments may share a line.
    """
    part = next(filter(None, (pattern.search(doc) for pattern in _PARTS)), None)
    text = " ".join((part.group(1) if part else doc).split())
    known = set(names)
    labels = [label for label in _LABEL.finditer(text) if known.issuperset(label.group(1).split(", "))]
    ends = [label.start() for label in labels[1:]] + [len(text)]
    descriptions: dict[str, str] = {}
    for label, end in zip(labels, ends):
        description = text[label.end() : end].strip()
        descriptions.update(dict.fromkeys(label.group(1).split(", "), description))
    return descriptions
