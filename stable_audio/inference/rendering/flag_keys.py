"""The keys of lines and requests that flags of the command line stand for, in messages that name flags."""

from __future__ import annotations

import re
from collections.abc import Collection

_OTHER_NAMES = {
    "init-prompt": "init_conditioning",
    "to-prompt": "to_conditioning",
    "window": "window_seconds",
}
"""Flags whose key has another name."""


def with_keys(message: str, *, form: str = "{}", only: Collection[str] | None = None) -> str:
    """A message with keys in place of the flags that it names.

    Args:
        form: how a key is written, such as "'{}'".
        only: keys that stand for their flags; other flags stay. None: all keys.
    """

    def key(flag: re.Match[str]) -> str:
        name = _OTHER_NAMES.get(flag[1], flag[1].replace("-", "_"))
        return form.format(name) if only is None or name in only else flag[0]

    return re.sub(r"--([a-z][a-z-]*)", key, message)
