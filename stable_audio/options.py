"""Let a constructor or function take an options dataclass whole, or its fields as keywords.

    @dataclass(frozen=True, kw_only=True)
    class Layers:
        depth: int = 2
        causal: bool = False

    class Network:
        @takes_keywords
        def __init__(self, *, channels: int, layers: Flat[Layers] = Layers()) -> None: ...

`Network(channels=3, layers=Layers(depth=4))` and `Network(channels=3, depth=4)` are the same, and so is the
JSON `{"channels": 3, "depth": 4}`: a setting is written once, in its dataclass, however many classes take it.
Flattened dataclasses may hold flattened ones.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypeVar

T = TypeVar("T")

_FLAT = "flat"
Flat = Annotated[T, _FLAT]
"""Marks an argument: the fields of its dataclass are keywords of the constructor as well."""

NO_DEFAULT = inspect.Parameter.empty


@dataclass(frozen=True)
class Keyword:
    """One keyword of a constructor.

    Attributes:
        annotation: its type, with its range if that is stated; None where there is none.
        default: its default value, or NO_DEFAULT.
        owner: the class that declares it, whose docstring describes it.
        variadic: whether it is `*args` or `**kwargs`.
    """

    annotation: Any
    default: Any
    owner: Any
    variadic: bool = False


def keywords_of(cls: Any) -> dict[str, Keyword]:
    """The keywords of a class or function, with the fields of flattened dataclasses in place of these.

    Raises:
        TypeError: two of them have one name, or a flattened dataclass has no decorated constructor.
    """
    keywords: dict[str, Keyword] = {}
    for name, parameter, annotation in _parameters(cls):
        options = _flattened(annotation)
        if options is None:
            variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            entries = {name: Keyword(annotation, parameter.default, cls, variadic)}
        else:
            _check_decorated(cls, name)
            entries = keywords_of(options)
            if parameter.default is not NO_DEFAULT:
                entries = {
                    n: dataclasses.replace(k, default=d) for n, k, d in _values_of(parameter.default, entries)
                }
        if duplicates := sorted(set(entries) & set(keywords)):
            raise TypeError(f"{cls.__name__} has two keywords named {', '.join(duplicates)}")
        keywords.update(entries)
    return keywords


def takes_keywords(function: Callable[..., T]) -> Callable[..., T]:
    """Let a constructor or function with `Flat` arguments take the fields of their dataclasses as keywords.

    A call may pass an options object and single keywords: the keywords override fields of the object.
    """

    @functools.wraps(function)
    def flattened(*args: Any, **keywords: Any) -> T:
        return function(*args, **_nested(function, keywords))

    return flattened


def grouped(function: Callable[..., Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of a function with `Flat` arguments as its body gets them, all of its groups included."""
    return _nested(function, dict(keywords))


def from_keywords(kind: type[T], keywords: Mapping[str, Any]) -> T:
    """Build a dataclass, and the flattened dataclasses in it, from one flat set of keywords."""
    return kind(**_nested(kind, dict(keywords)))


def _nested(cls: Any, keywords: dict[str, Any], base: Any = None) -> dict[str, Any]:
    """Replace the keywords of each flattened dataclass by an instance of it; the others stay as they are.

    Args:
        base: the instance that supplies missing fields; None: the constructor's defaults.
    """
    remaining = dict(keywords)
    instances: dict[str, Any] = {}
    for name, options, default, names in _flat_arguments(cls):
        initial = remaining.pop(name, default if base is None else getattr(base, name))
        inner = {key: remaining.pop(key) for key in names & remaining.keys()}
        if initial is NO_DEFAULT:
            instances[name] = from_keywords(options, inner)
        elif inner:
            instances[name] = dataclasses.replace(initial, **_nested(options, inner, base=initial))
        else:
            instances[name] = initial
    return {**remaining, **instances}


class _FlatArgument(NamedTuple):
    """A `Flat` argument: its dataclass, its default, and every keyword that it takes."""

    name: str
    options: Any
    default: Any
    names: frozenset[str]


@functools.cache
def _flat_arguments(cls: Any) -> tuple[_FlatArgument, ...]:
    """The `Flat` arguments of a class, dataclass, constructor or function."""
    return tuple(
        _FlatArgument(name, options, parameter.default, frozenset(_names(options)))
        for name, parameter, annotation in _parameters(cls)
        if (options := _flattened(annotation)) is not None
    )


def _names(options: Any) -> set[str]:
    """Every keyword of a dataclass: its fields, and the keywords of dataclasses flattened into it."""
    return set(keywords_of(options)) | {name for name, _, _ in _parameters(options)}


@functools.cache
def _parameters(cls: Any) -> tuple[tuple[str, inspect.Parameter, Any], ...]:
    """(name, parameter, annotation) of a class, dataclass, constructor or function, without `self`."""
    constructor = cls.__init__ if inspect.isclass(cls) else cls
    hints = typing.get_type_hints(cls if dataclasses.is_dataclass(cls) else constructor, include_extras=True)
    factories = _factories(cls)
    return tuple(
        (n, p.replace(default=factories[n]()) if n in factories else p, hints.get(n))
        for n, p in inspect.signature(constructor).parameters.items()
        if n != "self"
    )


def _factories(cls: Any) -> dict[str, Callable[[], Any]]:
    """Field -> what makes its default, in whose place a dataclass's signature has a mark."""
    if not dataclasses.is_dataclass(cls):
        return {}
    factories = {f.name: f.default_factory for f in dataclasses.fields(cls)}
    return {name: factory for name, factory in factories.items() if factory is not dataclasses.MISSING}


def _flattened(annotation: Any) -> Any:
    """The dataclass of `Flat[...]`; None for any other annotation."""
    if typing.get_origin(annotation) is not Annotated:
        return None
    options, *marks = typing.get_args(annotation)
    return options if _FLAT in marks else None


def _values_of(options: Any, keywords: dict[str, Keyword]) -> list[tuple[str, Keyword, Any]]:
    """(name, keyword, value of that field in `options` or in a dataclass flattened into it)."""
    values: dict[str, Any] = {}
    pending = [options]
    for instance in pending:
        kind: Any = type(instance)
        values |= _fields(instance)
        pending += [values[n] for n, _, a in _parameters(kind) if _flattened(a) is not None]
    return [(name, keyword, values[name]) for name, keyword in keywords.items()]


def _fields(options: Any) -> dict[str, Any]:
    return {f.name: vars(options)[f.name] for f in dataclasses.fields(options)}


def _check_decorated(cls: Any, name: str) -> None:
    function = cls.__init__ if inspect.isclass(cls) else cls
    if not dataclasses.is_dataclass(cls) and inspect.unwrap(function) is function:
        raise TypeError(f"{cls.__name__}({name}: Flat[...]): decorate it with takes_keywords")
