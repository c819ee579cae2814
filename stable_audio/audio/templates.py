"""Whole HTML pages from templates that lie beside the code, with nothing in them that is read as markup."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from urllib.parse import quote

from stable_audio.characters import shown


def resource(package: str, name: str) -> str:
    """The text of a file that lies in a package."""
    return (files(package) / name).read_text(encoding="utf-8")


def theme() -> str:
    """The style that all pages share: colours in light and dark, buttons, dialogs."""
    return resource(__package__ or "", "theme.css")


def filled(template: str, parts: Mapping[str, str]) -> str:
    """The template with `@@NAME@@` replaced by the part of that name; parts are not filled in turn.

    Halves of surrogate pairs in parts become escapes, so that the page can be encoded.
    """
    pieces = template.split("@@")
    return "".join(
        shown(parts.get(piece, piece)) if number % 2 else piece for number, piece in enumerate(pieces)
    )


def address_of(name: str) -> str:
    """The address of a file by its name, or its path with slashes, relative to the page."""
    return quote(name, errors="surrogateescape")


def for_script(values: object) -> str:
    """JSON that can stand in a script element: no character in it has a meaning in HTML."""
    text = json.dumps(values, separators=(",", ":"))
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")
