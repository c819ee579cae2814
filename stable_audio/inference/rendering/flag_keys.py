"""Flags of the command line and the keys of lines and requests that they stand for, in messages."""

from __future__ import annotations

import re
from collections.abc import Collection

from stable_audio.wording import flag_of

_OTHER_NAMES = {
    "init-prompt": "init_conditioning",
    "to-prompt": "to_conditioning",
    "window": "window_seconds",
}
"""Flags whose key has another name."""


def flag_of_key(key: str) -> str:
    """The flag that stands for a key, which `with_keys` makes a key again: "window_seconds" -> "--window"."""
    return flag_of(next((flag for flag, name in _OTHER_NAMES.items() if name == key), key))


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
