"""What differs between the files of two runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stable_audio.audio.json_files import JsonError, read_json_object
from stable_audio.interface.watch.state import last_start

FILES = ("model.json", "dataset.json", "val_dataset.json")
_MISSING = object()


def settings_of(folder: Path) -> dict[str, Any]:
    """Everything that a run was started with: its files by name, and the options of its last start.

    A file that cannot be read is the sentence that says why.
    """
    settings: dict[str, Any] = {}
    for name in FILES:
        if (folder / name).is_file():
            try:
                settings[name] = read_json_object(folder / name)
            except (OSError, JsonError) as error:
                settings[name] = str(error)
    start = last_start(folder)
    return {
        **settings,
        **{key: start[key] for key in ("options", "versions", "processes", "host") if key in start},
    }


def differences(first: Any, second: Any, path: str = "") -> Iterator[dict[str, Any]]:
    """Where two JSON values differ: `path`, and `first` and `second`, each of which is left out if it is not
    there. Lists are compared by place."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in {**first, **second}:
            inner = f"{path}.{key}" if path else str(key)
            yield from differences(first.get(key, _MISSING), second.get(key, _MISSING), inner)
    elif isinstance(first, list) and isinstance(second, list):
        for place in range(max(len(first), len(second))):
            one, other = (side[place] if place < len(side) else _MISSING for side in (first, second))
            yield from differences(one, other, f"{path}[{place}]")
    elif type(first) is not type(second) or first != second:
        sides = {"first": first, "second": second}
        yield {"path": path, **{name: value for name, value in sides.items() if value is not _MISSING}}
