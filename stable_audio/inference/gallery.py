"""A page that plays what was rendered, with a picture of every clip."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from stable_audio.audio.io import read_audio
from stable_audio.audio.page import Clip, write_page
from stable_audio.audio.plots import save_mel_grid
from stable_audio.inference.jobs import Job
from stable_audio.inference.render import Rendered

logger = logging.getLogger(__name__)

PICTURE = "spectrograms.png"


def write_render_page(
    folder: Path, rendered: Sequence[Rendered], jobs: Sequence[Job], *, column: str
) -> None:
    """Write `index.html` and `spectrograms.png` for the files of `folder`, those of earlier runs included.

    Args:
        rendered, jobs: the files and what they were asked to be, in the same order.
        column: heading over the players, such as the CFG scale.
    """
    titles = [_title(job) for job in jobs]
    sounds = [read_audio(item.path) for item in rendered]
    clips = [
        Clip(item.path.name, title, column, round(float(audio.abs().max()), 4), item.clipped)
        for item, title, (audio, _) in zip(rendered, titles, sounds)
    ]
    pictured = [(title, audio) for title, (audio, _) in zip(titles, sounds)]
    picture: str | None = PICTURE
    try:
        save_mel_grid(folder / PICTURE, pictured, sounds[0][1])
    except ImportError as error:
        logger.warning("no spectrograms: %s", error)
        picture = None
    write_page(folder, f"{len(clips)} clips", clips, picture=picture)


def _title(job: Job) -> str:
    told = job.conditioning
    return str(told["prompt"]) if "prompt" in told else json.dumps(told, ensure_ascii=False, default=str)
