"""`~/...` in a file -> the user's own folder, wherever a string of it may be a path."""

from __future__ import annotations

import os
import re
from typing import Any

_HOME = re.compile(r"~[\w.-]*[/\\]")
TEXTS = frozenset({"demo_cond", "caption_template", "keywords", "special_tokens", "options"})
"""Keys whose strings are texts, not paths."""


def with_home(value: Any) -> Any:
    """A copy of plain data in which strings that begin with `~/` or `~user/` begin with that folder."""
    if isinstance(value, dict):
        return {k: part if k in TEXTS else with_home(part) for k, part in value.items()}
    if isinstance(value, list):
        return [with_home(part) for part in value]
    return os.path.expanduser(value) if isinstance(value, str) and _HOME.match(value) else value
