"""How diffusers' Stable Audio layout treats each constructor argument of the parts that it can hold.

Every argument is in a table, so that a new one cannot be exported without a decision: the layout has a key
for it, only some of its values fit, or it does not affect what the networks compute.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from stable_audio.options import NO_DEFAULT, keywords_of

NetworkOptions = Mapping[str, Any]
Check = Callable[[Any, NetworkOptions], str]
"""(value, all arguments) -> "" if the value fits, else the values that would, as the end of a sentence."""


class Treatment(Protocol):
    """How the layout treats an argument."""

    def misfits(self, path: str, value: Any, options: NetworkOptions) -> Iterator[str]:
        """Reasons why the layout cannot hold `value`: parts of a sentence, with the JSON path."""
        ...


def fits(value: Any, options: NetworkOptions) -> str:
    """A check that accepts every value."""
    return ""


@dataclass(frozen=True)
class Held:
    """An argument that the layout stores.

    Attributes:
        where: the folder of the layout, or `folder.key` for a key of its configuration.
        check: further restriction of the value.
    """

    where: str
    check: Check = fits

    def misfits(self, path: str, value: Any, options: NetworkOptions) -> Iterator[str]:
        if reason := self.check(value, options):
            yield f"{path} is {shown(value)}, {reason}"


@dataclass(frozen=True)
class Only:
    """An argument that the layout does not store, since its networks have one of these values."""

    values: tuple[Any, ...]

    def misfits(self, path: str, value: Any, options: NetworkOptions) -> Iterator[str]:
        if value not in self.values:
            yield f"{path} is {shown(value)}, only {shown(self.values[0])} fits"


@dataclass(frozen=True)
class Unused:
    """An argument that the layout does not store, since it does not affect what the network computes.

    Attributes:
        because: the reason.
    """

    because: str

    def misfits(self, path: str, value: Any, options: NetworkOptions) -> Iterator[str]:
        return iter(())


@dataclass(frozen=True)
class Nested:
    """An argument that is an object with arguments of its own.

    Attributes:
        target: class of the object.
        table: treatment of its arguments.
    """

    target: Any
    table: Mapping[str, Treatment]

    def misfits(self, path: str, value: Any, options: NetworkOptions) -> Iterator[str]:
        nested = value if isinstance(value, Mapping) else {}
        return misfits(self.table, nested, path, defaults=defaults_of(self.target))


Table = Mapping[str, Treatment]


def misfits(
    table: Table, configured: NetworkOptions, path: str, *, defaults: NetworkOptions
) -> Iterator[str]:
    """Reasons why the layout cannot hold the arguments `configured` at the JSON path `path`."""
    options = {**defaults, **configured}
    for name, treatment in table.items():
        yield from treatment.misfits(f"{path}.{name}", options.get(name), options)
    for name, value in configured.items():
        if name not in table:
            yield f"{path}.{name} is {shown(value)}, which the layout does not have; leave it out"


def defaults_of(target: Any) -> dict[str, Any]:
    """Default values of the arguments of a class."""
    keywords = keywords_of(target).items()
    return {name: keyword.default for name, keyword in keywords if keyword.default is not NO_DEFAULT}


def only(*values: Any) -> Only:
    """An argument with these values only; the first one is recommended in messages."""
    return Only(values)


def shown(value: Any) -> str:
    """A value as JSON with single quotes, for messages."""
    return json.dumps(value, default=str).replace('"', "'")
