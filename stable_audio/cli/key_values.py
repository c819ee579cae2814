"""KEY=VALUE arguments."""

from __future__ import annotations

from typing import Any


def key_values(arguments: list[str] | None, flag: str) -> dict[str, Any]:
    """["a=1", "b=text"] -> {"a": 1, "b": "text"}.

    Args:
        arguments: texts KEY=VALUE, where VALUE is JSON or plain text.
        flag: the option, for messages.

    Raises:
        ValueError: no "=" or no KEY, or a JSON value that cannot be used, such as NaN.
    """
    from stable_audio.audio.json_files import JsonError, parse_json_value

    values: dict[str, Any] = {}
    for text in arguments or []:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise ValueError(f"{flag} needs KEY=VALUE, found '{text}'")
        try:
            values[key] = parse_json_value(value, source=f"{flag} {key}")
        except JsonError as error:
            if not error.place:  # JSON, but of a kind that cannot be used
                raise
            values[key] = value
    return values
