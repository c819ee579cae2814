"""A page on disk for listening through a thousand clips: filter, sort, star, compare blind."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stable_audio.audio.atomic import atomic_write
from stable_audio.audio.templates import address_of, filled, for_script, resource, theme

PAGE = "index.html"
Fact = str | float | int | bool | None


@dataclass(frozen=True)
class SheetClip:
    """One clip of a page.

    Attributes:
        file: its name in the folder of the page.
        text: what it is, such as its prompt.
        facts: what can be filtered and sorted by, such as its seed and settings.
        seconds: length.
        peak: largest sample, 1 = full scale.
        clipped: whether samples were clipped.
        picture: file with its spectrogram, relative to the folder.
    """

    file: str
    text: str
    facts: Mapping[str, Fact] = field(default_factory=dict)
    seconds: float = 0.0
    peak: float = 0.0
    clipped: bool = False
    picture: str | None = None

    def values(self) -> dict[str, object]:
        """As JSON values for the script of the page, with addresses in place of names."""
        return {
            "file": self.file,
            "url": address_of(self.file),
            "picture": None if self.picture is None else address_of(self.picture),
            "text": self.text,
            "facts": dict(self.facts),
            "seconds": round(self.seconds, 3),
            "peak": round(self.peak, 4),
            "clipped": self.clipped,
        }


def write_contact_sheet(folder: Path, title: str, clips: Sequence[SheetClip]) -> Path:
    """Write the page for `clips`, which lie in `folder`; returns it."""
    parts = {
        "TITLE": html.escape(title),
        "STYLE": theme() + _part("sheet.css"),
        "SCRIPT": _part("sheet.js"),
        "CLIPS": for_script([clip.values() for clip in clips]),
        "LINKS": "".join(
            f'<li><a href="{html.escape(address_of(clip.file))}">{html.escape(clip.text)}</a></li>'
            for clip in clips
        ),
    }
    with atomic_write(folder / PAGE) as temporary:
        temporary.write_text(filled(_part("sheet.html"), parts), encoding="utf-8")
    return folder / PAGE


def _part(name: str) -> str:
    return resource(__package__ or "", name)
