"""What is wrong with a request, as sentences for its client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stable_audio.config.reporting.findings import EXPECTED
from stable_audio.wording import excerpt


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
