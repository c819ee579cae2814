"""Files, names of files that come with the package, and dicts -> plain data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stable_audio.config.reading.home import with_home
from stable_audio.config.reading.plain import plain, read_json
from stable_audio.config.reporting.problems import UNNAMED, ConfigError, Problem
from stable_audio.shipped import file_or_shipped, shipped
from stable_audio.wording import did_you_mean

Source = str | os.PathLike[str] | Mapping[str, Any]
"""Path of a JSON file, name of one that comes with the package, or its content."""


class SourceData(NamedTuple):
    """A parsed configuration and where it comes from.

    Attributes:
        data: a copy of the parsed data, with the user's own folder for `~` in paths.
        name: name for messages.
        folder: folder that relative paths start from.
    """

    data: dict[str, Any]
    name: str
    folder: Path


def read_source(source: Source, kind: str, *, name: str | None = None) -> SourceData:
    """Read a file or dict.

    Args:
        source: what to read.
        kind: "model" or "dataset", where `source` may be the name of a file that comes with the package.
        name: name of a dict in messages.

    Raises:
        ConfigError: no such file, or not JSON.
    """
    if isinstance(source, Mapping):
        name = name or UNNAMED
        return SourceData(with_home(plain(dict(source), source=name)), name, Path())
    path = _file(source, kind)
    return SourceData(with_home(read_json(path)), os.fspath(path), Path(path).parent)


def _file(source: str | os.PathLike[str], kind: str) -> str | os.PathLike[str]:
    """The file called `source`, or the one of that name that comes with the package."""
    path = file_or_shipped(os.path.expanduser(source), kind)
    if not os.path.exists(path) and not os.path.splitext(path)[1]:
        hint = did_you_mean(os.fspath(source), shipped(kind))
        listed = hint if hint.startswith("did") else "`stable-audio configs` lists those"
        problem = Problem("", f"neither a file nor a {kind} config that comes with the package; {listed}")
        raise ConfigError([problem], os.fspath(source))
    return path
