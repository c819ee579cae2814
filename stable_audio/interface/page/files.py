"""The files of the page, read once."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from stable_audio.audio.templates import filled, theme

INDEX = "index.html"
"""The page itself, a template."""

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@dataclass(frozen=True)
class PageFile:
    """A file of the page.

    Attributes:
        content: its bytes.
        media_type: its type.
        tag: of its content, by which browsers know whether theirs is the same.
    """

    content: bytes
    media_type: str
    tag: str


def page_files(title: str) -> Mapping[str, PageFile]:
    """Name -> file of the page.

    Args:
        title: of the page, any text.
    """
    folder = files(__package__ or "") / "assets"
    texts = {
        entry.name: entry.read_text(encoding="utf-8")
        for entry in folder.iterdir()
        if entry.name.rpartition(".")[2] in _TYPES
    }
    texts["page.css"] = theme() + texts["page.css"]  # one file: a page is painted once its style is there
    # Modules that import each other would be asked for one after the other.
    scripts = sorted(name for name in texts if name.endswith(".js"))
    preloads = "\n".join(f'<link rel="modulepreload" href="page/{name}">' for name in scripts)
    texts[INDEX] = filled(texts[INDEX], {"TITLE": html.escape(title), "PRELOADS": preloads})
    return {name: _file(name, text.encode()) for name, text in texts.items()}


def _file(name: str, content: bytes) -> PageFile:
    kind = _TYPES[name.rpartition(".")[2]]
    return PageFile(content, f"{kind}; charset=utf-8", f'"{hashlib.sha256(content).hexdigest()[:32]}"')
