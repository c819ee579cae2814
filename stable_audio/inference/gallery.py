"""A page that plays what was rendered, with a picture of every clip."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stable_audio.audio.io import read_audio
from stable_audio.audio.page import Clip, write_page
from stable_audio.audio.plots import save_mel_grid

logger = logging.getLogger(__name__)

PICTURE = "spectrograms.png"


def write_render_page(folder: Path, files: Iterable[Path]) -> None:
    """Write `index.html` and `spectrograms.png` for rendered `files` of `folder`, in order of name.

    What the page says of a file comes from the JSON beside it, so files of earlier runs count as well.
    """
    files = sorted(set(files))
    clips = [_clip(path, json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))) for path in files]
    sounds = [read_audio(path) for path in files]
    picture: str | None = PICTURE
    try:
        pictured = [(f"{c.row} ({c.column})", audio) for c, (audio, _) in zip(clips, sounds)]
        save_mel_grid(folder / PICTURE, pictured, sounds[0][1])
    except ImportError as error:
        logger.warning("no spectrograms: %s", error)
        picture = None
    write_page(folder, f"{len(clips)} clips", clips, picture=picture)


def _clip(path: Path, told: dict[str, Any]) -> Clip:
    recipe, output = told["recipe"], told["output"]
    conditioning = recipe["conditioning"]
    row = conditioning.get("prompt") or json.dumps(conditioning, ensure_ascii=False, default=str)
    column = f"CFG {recipe['sampling']['cfg_scale']:g}"
    return Clip(path.name, str(row), column, round(output["peak"], 4), output["clipped"])
