"""Pages that play the demos of a training from disk: sounds by prompt and scale, over all steps."""

from __future__ import annotations

import html
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stable_audio.audio.atomic import atomic_write
from stable_audio.audio.json_files import read_json_object
from stable_audio.audio.templates import address_of, filled, for_script, resource, theme

log = logging.getLogger(__name__)

PAGE = "index.html"
SUMMARY = "demos.json"


@dataclass(frozen=True, kw_only=True)
class DemoClip:
    """One sound of a page.

    Attributes:
        file: its name in the folder of its step.
        row: what it is, such as its prompt.
        column: what tells the clips of a row apart, such as the CFG scale.
        peak: largest sample, 1 = full scale.
        clipped: whether samples were clipped.
        loudness: in LUFS; None for silence, and where it was not measured.
        seconds: length; 0 where it is not known.
        picture: file with its waveform and spectrogram, in the same folder.
    """

    file: str
    row: str
    column: str
    peak: float
    clipped: bool
    loudness: float | None = None
    seconds: float = 0.0
    picture: str | None = None


@dataclass(frozen=True, kw_only=True)
class DemoStep:
    """The demos of one step.

    Attributes:
        clips: its sounds.
        step: number of the step; None where a page has one set of sounds alone.
        pictures: further pictures in its folder.
        folder: where its files are, relative to the page: "" or a name and "/".
    """

    clips: Sequence[DemoClip]
    step: int | None = None
    pictures: Sequence[str] = ()
    folder: str = ""


def write_step_page(folder: Path, step: DemoStep) -> None:
    """Write `index.html` of one step of training, and the summary of it that `write_index` reads."""
    title = f"Demos of {folder.parent.parent.name or 'a run'} at step {step.step}"
    write_demo_page(folder, title, [step], above=f"../{PAGE}")
    summary = {"step": step.step, "clips": [asdict(c) for c in step.clips], "pictures": list(step.pictures)}
    with atomic_write(folder / SUMMARY) as temporary:
        temporary.write_text(json.dumps(summary, indent=1), encoding="utf-8")


def write_index(folder: Path) -> None:
    """Write the page of all steps in `folder`, the `demos` folder of a run."""
    write_demo_page(folder, f"Demos of {folder.resolve().parent.name or 'a run'}", read_steps(folder))


def read_steps(folder: Path) -> list[DemoStep]:
    """The steps whose summaries lie below `folder`, early to late; damaged ones are left out and logged."""
    steps = [read_step(path) for path in folder.glob(f"step_*/{SUMMARY}")]
    return sorted((s for s in steps if s is not None), key=lambda s: s.step or 0)


def read_step(path: Path) -> DemoStep | None:
    """The step of a summary that `write_step_page` wrote; None if it is damaged, which is logged."""
    try:
        summary = read_json_object(path)
        return DemoStep(
            step=int(summary["step"]),
            clips=[_clip(values) for values in summary["clips"]],
            pictures=[str(name) for name in summary.get("pictures", ())],
            folder=f"{path.parent.name}/",
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s: left out of the page of all steps (%s)", path, error)
        return None


def _clip(values: Mapping[str, Any]) -> DemoClip:
    """The clip of a summary; those of earlier versions have neither loudness nor length nor picture."""
    loudness, picture = values.get("loudness"), values.get("picture")
    peak, seconds = float(values["peak"]), float(values.get("seconds", 0.0))
    if not (math.isfinite(peak) and math.isfinite(seconds)):
        raise ValueError(f"the numbers of {values['file']} are not finite")
    return DemoClip(
        file=str(values["file"]),
        row=str(values["row"]),
        column=str(values["column"]),
        peak=peak,
        clipped=bool(values["clipped"]),
        loudness=float(loudness) if loudness is not None and math.isfinite(loudness) else None,
        seconds=seconds,
        picture=None if picture is None else str(picture),
    )


def write_demo_page(folder: Path, title: str, steps: Sequence[DemoStep], *, above: str = "") -> Path:
    """Write an `index.html` that plays the clips of `steps`, whose files lie below `folder`; returns it.

    Args:
        above: address of the page of all steps, if this one has some of them.
    """
    page = demo_page(title, steps, above=above)
    with atomic_write(folder / PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder / PAGE


def demo_page(title: str, steps: Sequence[DemoStep], *, above: str = "") -> str:
    """The HTML of a page of demos; see `write_demo_page`."""
    parts = {
        "TITLE": html.escape(title),
        "ABOVE": f'<a href="{html.escape(above)}">all steps</a>' if above else "",
        "STYLE": theme() + _part("demos.css"),
        "SCRIPT": _part("demos.js"),
        "DATA": for_script(page_values(steps)),
        "LINKS": "".join(_link(step, clip) for step in steps for clip in step.clips),
    }
    return filled(_part("demos.html"), parts)


def page_values(steps: Sequence[DemoStep]) -> dict[str, Any]:
    """What the script of the page reads: the cells, each a file over all steps, and the steps.

    A cell is known by its file; its row and column are those of the latest step. Clips whose row says
    something else, such as how good they are, have it as `row`.
    """
    cells = {clip.file: {"row": clip.row, "column": clip.column} for s in steps for clip in s.clips}
    places = {file: number for number, file in enumerate(cells)}
    rows = [cell["row"] for cell in cells.values()]
    return {"cells": list(cells.values()), "steps": [_step_values(step, places, rows) for step in steps]}


def _step_values(step: DemoStep, places: Mapping[str, int], rows: Sequence[str]) -> dict[str, Any]:
    def address(name: str | None) -> str | None:
        return None if name is None else address_of(step.folder + name)

    clips = [
        {
            "cell": places[clip.file],
            "url": address(clip.file),
            "picture": address(clip.picture),
            "peak": round(float(clip.peak), 4),
            "clipped": bool(clip.clipped),
            "loudness": clip.loudness,
            "seconds": round(float(clip.seconds), 3),
            **({} if clip.row == rows[places[clip.file]] else {"row": clip.row}),
        }
        for clip in step.clips
    ]
    return {"step": step.step, "clips": clips, "pictures": [address(name) for name in step.pictures]}


def _link(step: DemoStep, clip: DemoClip) -> str:
    told = f"{clip.row}, {clip.column}" + ("" if step.step is None else f", step {step.step}")
    return f'<li><a href="{html.escape(address_of(step.folder + clip.file))}">{html.escape(told)}</a></li>'


def _part(name: str) -> str:
    return resource(__package__ or "", name)
