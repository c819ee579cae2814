"""Whole HTML pages from templates that lie beside the code, with nothing in them that is read as markup."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files


def resource(package: str, name: str) -> str:
    """The text of a file that lies in a package."""
    return (files(package) / name).read_text(encoding="utf-8")


def theme() -> str:
    """The style that all pages share: colours in light and dark, buttons, dialogs."""
    return resource(__package__ or "", "theme.css")


def filled(template: str, parts: Mapping[str, str]) -> str:
    """The template with `@@NAME@@` replaced by the part of that name; parts are not filled in turn."""
    pieces = template.split("@@")
    return "".join(parts.get(piece, piece) if number % 2 else piece for number, piece in enumerate(pieces))


def for_script(values: object) -> str:
    """JSON that can stand in a script element: no character in it has a meaning in HTML."""
    text = json.dumps(values, separators=(",", ":"))
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")
