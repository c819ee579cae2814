"""Names of models, adapters and clients, as a command line gives them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from stable_audio.characters import fault, refuse

_NAME = re.compile(r"(?P<name>[\w.-]+)=(?P<path>.+)", re.DOTALL)
_USUAL = ("last", "best", "model", "checkpoint")
"""Names of files that say nothing of the model: the name of their folder does."""

MIN_TOKEN = 16


def named(texts: Sequence[str]) -> list[tuple[str, str]]:
    """(name, path) of each text `[NAME=]PATH`; names that the texts do not give follow from the paths.

    Raises:
        ValueError: two have one name, or a name is not UTF-8.
    """
    pairs = []
    for text in texts:
        match = None if Path(text).expanduser().exists() else _NAME.fullmatch(text)
        name, path = (match["name"], match["path"]) if match else (name_of(text), text)
        refuse(name, "the name of what is served", "give it another, as NAME=PATH")
        pairs.append((name, path))
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"several are called {', '.join(twice)}: give each a name, as NAME=PATH")
    return pairs


def name_of(path: str) -> str:
    """The name that a path gives: of its file, or of the folder if that of the file says nothing."""
    steps = [step for step in Path(path).expanduser().absolute().parts if step != "/"]
    last = Path(steps[-1]).stem if Path(path).suffix in (".safetensors", ".ckpt", ".pt") else steps[-1]
    return steps[-2] if last in _USUAL and len(steps) > 1 else last


def read_tokens(path: str | None, single: str | None) -> Mapping[str, str]:
    """Name of a client -> its token.

    Args:
        path: a file with a line `[NAME ]TOKEN` for each; lines that begin with # are skipped.
        single: another token.

    Raises:
        ValueError: a token that can be guessed, or two of one name.
    """
    lines = [] if path is None else Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    entries = [line.split() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    entries += [[single]] if single else []
    tokens: dict[str, str] = {}
    for number, words in enumerate(entries, start=1):
        if len(words) > 2:
            raise ValueError(f"{path}: a line is [NAME ]TOKEN, found {len(words)} words")
        name = words[0] if len(words) == 2 else f"client-{number}"
        if len(words[-1]) < MIN_TOKEN:
            raise ValueError(f"the token of {name} has {len(words[-1])} characters; at least {MIN_TOKEN}")
        if fault(words[-1]) is not None:
            raise ValueError(f"the token of {name} is not UTF-8, so that no client could send it")
        if name in tokens:
            raise ValueError(f"{path}: two tokens are called {name}")
        tokens[name] = words[-1]
    if path is not None and not tokens:
        raise ValueError(f"{path}: holds no token, so that nobody could be answered")
    return tokens
