"""Adapters as they are named by people: a file or a run, how much of it, at which noise levels, where."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stable_audio.adapters.files import Adapter, read_adapter
from stable_audio.adapters.stack import Gate
from stable_audio.adapters.use import AdapterUse

SYNTAX = "FILE_OR_RUN[:STRENGTH[:LOW-HIGH[:LAYERS]]]"
_NUMBER = r"\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|\.\d+"
_SPEC = re.compile(
    rf"(?P<path>.+?)(?::(?P<strength>[-+]?(?:{_NUMBER}))?"
    rf"(?::(?:(?P<low>{_NUMBER})-(?P<high>{_NUMBER}))?(?::(?P<layers>[^:]*))?)?)?",
    re.DOTALL,
)


ReadAdapter = Callable[[str], Adapter]
"""Path -> the adapter there."""


@dataclass(frozen=True)
class AdapterSpec:
    """A file with an adapter, and how it is used.

    Attributes:
        path: the file, or the folder of a run that trained one.
        strength: as in `AdapterUse`.
        interval: noise levels at which it applies in the backbone, both ends included.
        layer_filter: layers of the backbone that it leaves alone, as in `Gate`.
    """

    path: str
    strength: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    layer_filter: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "interval", tuple(self.interval))
        if not math.isfinite(self.strength):
            raise ValueError(f"adapter {self.path}: strength must be a finite number, found {self.strength}")
        try:
            _ = self.gate
        except ValueError as error:
            raise ValueError(f"adapter {self.path}: {error}") from error

    @classmethod
    def parse(cls, text: str) -> AdapterSpec:
        """Read `SYNTAX`: what is left out or empty has its default.

        `pad.safetensors:0.8:0.5-1:layers.[0-3]` is strength 0.8 at noise levels from 0.5 to 1 and not in the
        first four layers. A path that exists is taken as it is, with colons or without.

        Raises:
            ValueError: no path, or levels that are not in order within 0 and 1.
        """
        match = None if Path(text).expanduser().exists() else _SPEC.fullmatch(text)
        if match is None:
            if not text:
                raise ValueError(f"an adapter is named as {SYNTAX}; found an empty text")
            return cls(text)
        strength, low, high = match["strength"], match["low"], match["high"]
        return cls(
            match["path"],
            1.0 if strength is None else float(strength),
            (0.0, 1.0) if low is None else (float(low), float(high)),
            match["layers"] or "",
        )

    @property
    def gate(self) -> Gate:
        """Where it applies."""
        return Gate(self.interval, self.layer_filter)

    def use(self, read: ReadAdapter = read_adapter) -> AdapterUse:
        """The adapter, read from its file by `read`.

        Raises:
            AdapterError: no adapter, a damaged file, or a layer filter that names none of its layers.
        """
        return AdapterUse(adapter=read(self.path), strength=self.strength, gate=self.gate)


AnyAdapter = AdapterUse | AdapterSpec | Path | str
"""An adapter that is read already, or its name; texts are as `AdapterSpec.parse` reads them."""


def specs_of(texts: Sequence[str]) -> tuple[AdapterSpec, ...]:
    """Several texts as `AdapterSpec.parse` reads them."""
    return tuple(AdapterSpec.parse(text) for text in texts)


def uses_of(adapters: Sequence[AnyAdapter], read: ReadAdapter = read_adapter) -> list[AdapterUse]:
    """Read those that are named only, by `read`.

    Raises:
        AdapterError: no adapter, or a damaged file.
    """
    return [adapter if isinstance(adapter, AdapterUse) else _spec(adapter).use(read) for adapter in adapters]


def _spec(adapter: AdapterSpec | Path | str) -> AdapterSpec:
    if isinstance(adapter, AdapterSpec):
        return adapter
    return AdapterSpec(str(adapter)) if isinstance(adapter, Path) else AdapterSpec.parse(adapter)
