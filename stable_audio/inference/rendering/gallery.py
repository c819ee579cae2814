"""An HTML page that plays rendered clips and shows their spectrograms."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from stable_audio.audio.errors import AudioError
from stable_audio.audio.io import read_audio
from stable_audio.audio.json_files import read_json_object
from stable_audio.audio.page import PageClip, write_page
from stable_audio.audio.plots import save_mel_grid
from stable_audio.inference.rendering.recipe import FORMAT

logger = logging.getLogger(__name__)

PICTURE = "spectrograms.png"


def write_render_page(folder: Path, files: Iterable[Path]) -> None:
    """Write `index.html` and `spectrograms.png` for rendered `files` and those of earlier runs in `folder`.

    The clips are sorted by name and described from the JSON beside each file.
    """
    sounds = dict(_readable(sorted({*files, *rendered_files(folder)})))
    if not sounds:
        return
    clips = [_clip(path, read_json_object(path.with_suffix(".json"))) for path in sounds]
    picture: str | None = PICTURE
    try:
        pictured = [(f"{c.row} ({c.column})", audio) for c, (audio, _) in zip(clips, sounds.values())]
        save_mel_grid(folder / PICTURE, pictured, next(iter(sounds.values()))[1])
    except ImportError as error:
        logger.warning("no spectrograms: %s", error)
        picture = None
    write_page(folder, f"{len(clips)} clips", clips, picture=picture)


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


def _readable(files: list[Path]) -> Iterator[tuple[Path, tuple[Tensor, int]]]:
    """(file, its sound); files that an earlier run left damaged are skipped and logged."""
    for path in files:
        try:
            yield path, read_audio(path)
        except AudioError as error:
            logger.warning("left off the page: %s", error)


def _clip(path: Path, content: dict[str, Any]) -> PageClip:
    recipe, output = content["recipe"], content["output"]
    conditioning = recipe["conditioning"]
    row = conditioning.get("prompt") or json.dumps(conditioning, ensure_ascii=False, default=str)
    column = f"CFG {recipe['sampling']['cfg_scale']:g}"
    return PageClip(path.name, str(row), column, round(output["peak"], 4), output["clipped"])
