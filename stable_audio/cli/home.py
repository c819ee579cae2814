"""`~/...` in the words of a command line: shells leave it as it is in quotes and in `--option=~/...`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

_HOME = re.compile(r"~[\w.-]*[/\\]")
TEXTS = frozenset({"--prompt", "--negative-prompt", "--condition", "--sampler-option"})
"""Options whose values are texts, not paths."""


def with_home(words: Sequence[str]) -> list[str]:
    """The words, with the user's own folder for a `~` that begins a path."""
    expanded: list[str] = []
    for index, word in enumerate(words):
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        is_text = option in TEXTS or (index > 0 and words[index - 1] in TEXTS)
        if not is_text and _HOME.match(value):
            word = f"{option}{equals}{os.path.expanduser(value)}"
        expanded.append(word)
    return expanded
