"""A page for listening through rendered clips."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stable_audio.audio.atomic import remove_leftovers
from stable_audio.audio.contact_sheet import Fact, SheetClip, write_contact_sheet
from stable_audio.audio.contact_sheet.thumbnails import FOLDER, thumbnail_of
from stable_audio.audio.errors import AudioError
from stable_audio.audio.json_files import read_json_object
from stable_audio.characters import readable_json
from stable_audio.inference.rendering.recipe import FORMAT

logger = logging.getLogger(__name__)

_COMMON = ("use_ema", "dtype", "sample_size", "seconds", "chunked_decode")
_OF_OUTPUT = ("loudness", "true_peak")


def write_render_page(folder: Path, files: Iterable[Path]) -> None:
    """Write `index.html` for rendered `files` and those of earlier runs in `folder`, with their spectrograms.

    The clips are sorted by name and described from the JSON beside each file. Files that cannot be read are
    left out, and logged.
    """
    remove_leftovers(folder / FOLDER)
    clips: list[SheetClip] = []
    for path in sorted({*files, *rendered_files(folder)}):
        try:
            clip = _clip(path, read_json_object(path.with_suffix(".json")))
            clips.append(replace(clip, picture=thumbnail_of(path)))
        except AudioError as error:
            logger.warning("left off the page: %s", error)
    if clips:
        write_contact_sheet(folder, f"{len(clips)} clips", clips)


def rendered_files(folder: Path) -> list[Path]:
    """The sounds in `folder` with the JSON of a render; those with damaged JSON are left out and logged."""
    files = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = read_json_object(path)
            if content.get("format") == FORMAT:
                sound = folder / Path(content["output"]["file"]).name
                _clip(sound, content)
                if sound.is_file():
                    files.append(sound)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("%s: left out of the page (%s)", path, error)
    return files


def _clip(path: Path, content: dict[str, Any]) -> SheetClip:
    recipe, output = content["recipe"], content["output"]
    conditioning = recipe["conditioning"]
    text = conditioning.get("prompt") or readable_json(conditioning, default=str)
    return SheetClip(
        file=path.name,
        text=str(text),
        facts=_facts(recipe, output),
        seconds=output.get("samples", 0) / output.get("sample_rate", 1),
        peak=output["peak"],
        clipped=output["clipped"],
    )


def _facts(recipe: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Fact]:
    """What can tell clips apart."""
    negative = recipe.get("negative_conditioning") or {}
    plain = {k: v for k, v in recipe.items() if isinstance(v, (str, int, float)) and k not in _COMMON}
    values = {
        **recipe["conditioning"],
        **{f"negative {key}": value for key, value in negative.items()},
        "seed": recipe.get("seed"),
        **recipe["sampling"],
        **plain,
        "adapters": ", ".join(
            f"{Path(a['path']).stem}:{a['strength']:g}" for a in recipe.get("adapters") or ()
        ),
        "checkpoint": Path(recipe.get("checkpoint", {}).get("path", "")).stem,
        **{key: output.get(key) for key in _OF_OUTPUT},
    }
    return {key: _plain(value) for key, value in values.items() if value not in (None, "", {}, [])}


def _adapter(values: Mapping[str, Any]) -> str:
    return f"{Path(values['path']).stem}:{values['strength']:g}"


def _plain(value: Any) -> Fact:
    if isinstance(value, (str, int, float)):
        return value
    return readable_json(value, default=str)
