"""The short names of precisions, which mean the same as longer ones."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

SHORT = MappingProxyType({"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"})
"""Short name of Lightning's -> the one by which checkpoints, checks and messages call the same precision."""


def precision_name(given: Any) -> str:
    """The one name of a precision; names that are not short stay as they are."""
    return SHORT.get(str(given), str(given))
