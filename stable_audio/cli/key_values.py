"""KEY=VALUE arguments."""

from __future__ import annotations

from typing import Any


def key_values(given: list[str] | None, flag: str) -> dict[str, Any]:
    """["a=1", "b=text"] -> {"a": 1, "b": "text"}."""
    from stable_audio.audio.json_files import JsonError, parse_json_value

    found: dict[str, Any] = {}
    for text in given or []:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise ValueError(f"{flag} needs KEY=VALUE, found '{text}'")
        try:
            found[key] = parse_json_value(value, source=f"{flag} {key}")
        except JsonError as error:
            if not error.place:  # JSON, but of a kind that cannot be used
                raise
            found[key] = value
    return found
