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


def grid_axes(arguments: list[str]) -> dict[str, list[Any]]:
    """["seed=1,2", "sampler=euler,heun"] -> {"seed": [1, 2], "sampler": ["euler", "heun"]}.

    Args:
        arguments: texts KEY=VALUES, where VALUES is a JSON list, or JSON values or texts with commas between.

    Raises:
        ValueError: no "=" or no KEY, or one KEY twice.
    """
    axes: dict[str, list[Any]] = {}
    for text in arguments:
        (key, value), *_ = key_values([text], "--grid").items()
        if key in axes:
            raise ValueError(f"--grid {key} is given twice; write all its values with commas between them")
        if isinstance(value, str) and value == text.partition("=")[2]:
            value = [key_values([f"{key}={v.strip()}"], "--grid")[key] for v in value.split(",")]
        axes[key] = value if isinstance(value, list) else [value]
    return axes
