"""How diffusers' Stable Audio layout treats each constructor argument of the parts that it can hold.

Every argument is in a table, so that a new one cannot be exported without a decision: it is held by a key of
the layout, fits at some values only, or changes nothing that the networks compute.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from stable_audio.options import NO_DEFAULT, keywords_of

Options = Mapping[str, Any]
Check = Callable[[Any, Options], str]
"""(value, all arguments) -> "" where the value fits, otherwise what would, as the end of a sentence."""


class Treatment(Protocol):
    """What becomes of an argument."""

    def misfits(self, path: str, value: Any, options: Options) -> Iterator[str]:
        """One sentence part, with the JSON path, for everything about `value` that the layout cannot hold."""
        ...


def fits(value: Any, options: Options) -> str:
    """The check that every value passes."""
    return ""


@dataclass(frozen=True)
class Held:
    """Written.

    Attributes:
        where: the folder of the layout, or `folder.key` for a key of its configuration.
        check: what the value must be besides.
    """

    where: str
    check: Check = fits

    def misfits(self, path: str, value: Any, options: Options) -> Iterator[str]:
        if reason := self.check(value, options):
            yield f"{path} is {shown(value)}, {reason}"


@dataclass(frozen=True)
class Only:
    """Not written: the layout's network is as it is with one of these values."""

    values: tuple[Any, ...]

    def misfits(self, path: str, value: Any, options: Options) -> Iterator[str]:
        if value not in self.values:
            yield f"{path} is {shown(value)}, only {shown(self.values[0])} fits"


@dataclass(frozen=True)
class Unused:
    """Not written: whatever its value, the network computes the same.

    Attributes:
        because: why.
    """

    because: str

    def misfits(self, path: str, value: Any, options: Options) -> Iterator[str]:
        return iter(())


@dataclass(frozen=True)
class Nested:
    """An object with arguments of its own.

    Attributes:
        target: class that the nested object describes.
        table: translation of its arguments.
    """

    target: Any
    table: Mapping[str, Treatment]

    def misfits(self, path: str, value: Any, options: Options) -> Iterator[str]:
        given = value if isinstance(value, Mapping) else {}
        return misfits(self.table, given, path, defaults=defaults_of(self.target))


Table = Mapping[str, Treatment]


def misfits(table: Table, given: Options, path: str, *, defaults: Options) -> Iterator[str]:
    """Everything about the arguments `given` at the JSON path `path` that the layout cannot hold."""
    options = {**defaults, **given}
    for name, treatment in table.items():
        yield from treatment.misfits(f"{path}.{name}", options.get(name), options)
    for name in given:
        if name not in table:
            yield f"{path}.{name} is {shown(given[name])}, of which the layout knows nothing; leave it out"


def defaults_of(target: Any) -> dict[str, Any]:
    """Default values of the arguments of a class."""
    keywords = keywords_of(target).items()
    return {name: keyword.default for name, keyword in keywords if keyword.default is not NO_DEFAULT}


def only(*values: Any) -> Only:
    """The first value is the one to recommend."""
    return Only(values)


def shown(value: Any) -> str:
    """A value as JSON has it, in the quotes of messages."""
    return json.dumps(value, default=str).replace('"', "'")
