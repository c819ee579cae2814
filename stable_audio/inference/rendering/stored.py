"""What a rendered file says of its recipe: the JSON beside it, or the comment within it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stable_audio.audio.comments import read_comment
from stable_audio.audio.io import AUDIO_EXTENSIONS
from stable_audio.audio.json_files import parse_json_object, read_json_object


def digest_in(path: str | Path) -> str | None:
    """The digest of the recipe in a rendered sound file or the JSON beside it; None if there is none."""
    try:
        digest = stored_content(path).get("digest")
    except (OSError, ValueError):
        return None
    return digest if isinstance(digest, str) else None


def stored_content(path: str | Path) -> dict[str, Any]:
    """What the JSON of a rendered file holds, or the comment of a sound.

    Raises:
        ValueError: it is no JSON, or the sound has no comment.
        OSError: it cannot be read.
    """
    if Path(path).suffix.lower() not in AUDIO_EXTENSIONS:
        return read_json_object(path)
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    comment = read_comment(path)
    if comment is None:
        raise ValueError(f"{path}: has no recipe; name the JSON beside it, or a file that was rendered here")
    return parse_json_object(comment, source=f"{path}, comment")
