r"""Texts with halves of surrogate pairs, which cannot be encoded, and what becomes of them.

JSON can hold half a pair (`"\ud800"`: an emoji cut in two), and Python reads every byte of an argument or a
file name that is not UTF-8 as one (PEP 383: `\xe9` as `"\udce9"`). Files, hashes, tokenizers and databases
refuse them. The rule of the package, by where a text comes from:

- What a person asks for, a prompt or a value of a config, is refused by a sentence with its place: `fault`
  and `refuse`.
- Metadata of a dataset get U+FFFD, the character for what cannot be read, in place of each half: `whole`. The
  data report counts them, so that one bad caption ends nothing.
- The name of a file or folder stays what it is, so that the file can be opened. Where it is shown, in a log,
  a page or JSON, each half is escaped: `shown`.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

REPLACEMENT = "\ufffd"
"""The character that stands for what cannot be read."""

_HALF = re.compile("[\ud800-\udfff]")
_BYTES = range(0xDC80, 0xDD00)
"""Halves that Python reads for the bytes 80 to FF (PEP 383)."""


def fault(text: str) -> str | None:
    """What the first half of a surrogate pair in `text` is, for an error message; None if it has none."""
    found = _HALF.search(text)
    if found is None:
        return None
    code = ord(found.group())
    if code in _BYTES:
        return f"the byte {code - 0xDC00:02X}, which is not UTF-8"
    return f"\\u{code:04x}, half of a surrogate pair, which is no character"


def refuse(text: str, what: str, hint: str = "write it in UTF-8") -> None:
    """Raise ValueError if a text has half of a surrogate pair.

    Args:
        what: begins the sentence: the flag, or another place of the text.
        hint: ends it: what to do.
    """
    if (half := fault(text)) is not None:
        raise ValueError(f"{what}: found {readable_json(text)} with {half}; {hint}")


def refuse_name(path: str | os.PathLike[str], what: str = "weights") -> None:
    """Raise ValueError if a name is not UTF-8 where it must be, as for a file that safetensors is to open.

    Args:
        what: is of this name, in the plural.
    """
    name = os.fspath(path)
    if (half := fault(name)) is not None:
        hint = "rename it, or link to it by another name"
        raise ValueError(f"{shown(name)}: the name has {half}, and {what} need one in UTF-8; {hint}")


def shown(text: str) -> str:
    r"""The text with each half of a surrogate pair as `\udXXX`, which is its escape in JSON as well."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def whole(value: Any) -> Any:
    """A JSON value with U+FFFD in place of each half of a surrogate pair, in keys as well."""
    if isinstance(value, str):
        return _HALF.sub(REPLACEMENT, value)
    if type(value) is dict:
        return {whole(key): whole(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(whole(item) for item in value)
    return value


def readable_json(value: Any, **options: Any) -> str:
    """JSON in which letters stay letters, and halves of surrogate pairs are escapes.

    Args:
        options: as for `json.dumps`.
    """
    return shown(json.dumps(value, ensure_ascii=False, **options))
