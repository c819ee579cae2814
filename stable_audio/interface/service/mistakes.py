"""What is wrong with a request, as sentences for its client."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from stable_audio.config.reporting.findings import EXPECTED
from stable_audio.wording import excerpt

_KEYS = {"init_prompt": "init_conditioning", "to_prompt": "to_conditioning", "window": "window_seconds"}
"""Flags of the command line that are keys of another name."""


def in_keys(message: str) -> str:
    """A message that names flags of the command line, with the keys of a request in their place."""
    names = (name for name in re.findall(r"--([a-z][a-z-]*)", message))
    for name in names:
        key = name.replace("-", "_")
        message = message.replace(f"--{name}", _KEYS.get(key, key), 1)
    return message


def mistake(entry: Mapping[str, Any]) -> str:
    """A sentence for an error of FastAPI, in a query, a form or a path."""
    place = ".".join(map(str, entry["loc"]))
    if entry["type"] == "missing":
        return f"{place}: missing"
    if entry["loc"][0] == "body" and entry["type"] == "value_error":
        return f"{place}: found {excerpt(entry['input'])}; expected a file"
    if entry["type"] in EXPECTED:
        return f"{place}: found {excerpt(entry['input'])}; expected {EXPECTED[entry['type']]}"
    message = entry["msg"].replace("Input should", "it should")
    return f"{place}: found {excerpt(entry['input'])}; {message}"
