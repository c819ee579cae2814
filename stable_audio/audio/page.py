"""HTML pages that play demos from disk, without a server or a network."""

from __future__ import annotations

import html
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stable_audio.audio.atomic import atomic_write
from stable_audio.audio.json_files import read_json_object

log = logging.getLogger(__name__)

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1100px;padding:0 1em;color:#222}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.4em .6em;border-bottom:1px solid #ddd;vertical-align:top}
audio{width:220px;height:36px;display:block}.flag{color:#b00020;font-size:13px}
.level{color:#666;font-size:13px}img{max-width:100%;margin-top:1em}
@media(prefers-color-scheme:dark){body{background:#161616;color:#ddd}th,td{border-color:#333}}
"""
_SUMMARY = "demos.json"


@dataclass(frozen=True)
class PageClip:
    """One cell of a page: file name, row and column, peak level (1 = full scale), whether it clipped."""

    file: str
    row: str
    column: str
    peak: float
    clipped: bool


def write_step_page(
    folder: Path, step: int, clips: Sequence[PageClip], *, picture: str | None, more: Sequence[str] = ()
) -> None:
    """Write `index.html` of one step of training, and the summary of it that `write_index` reads."""
    title, link = f"Demos at step {step}", '<p><a href="../index.html">all steps</a></p>'
    write_page(folder, title, clips, picture=picture, more=more, top=link)
    with atomic_write(folder / _SUMMARY) as temporary:
        summary = {"step": step, "clips": [asdict(c) for c in clips]}
        temporary.write_text(json.dumps(summary, indent=1), encoding="utf-8")


def write_page(
    folder: Path,
    title: str,
    clips: Sequence[PageClip],
    *,
    picture: str | None = None,
    more: Sequence[str] = (),
    top: str = "",
) -> None:
    """Write an `index.html` that plays `clips`, which are files of `folder`.

    Args:
        picture: file of `folder` with mel spectrograms, shown below the clips.
        more: further pictures of `folder`.
        top: HTML shown above the clips.
    """
    columns = list(dict.fromkeys(c.column for c in clips))
    rows = list(dict.fromkeys(c.row for c in clips))
    head = "".join(f"<th>{html.escape(c)}</th>" for c in ("", *columns))
    body = "".join(f"<tr><th>{html.escape(row)}</th>{_cells(clips, row, columns)}</tr>" for row in rows)
    image = f'<img src="{html.escape(picture)}" alt="mel spectrograms">' if picture else ""
    image += "".join(f'<img src="{html.escape(p)}" alt="{html.escape(Path(p).stem)}">' for p in more)
    _write(folder / "index.html", title, f"{top}<table><tr>{head}</tr>{body}</table>{image}")


def _cells(clips: Sequence[PageClip], row: str, columns: Sequence[str]) -> str:
    players = {c: "".join(_player(k) for k in clips if (k.row, k.column) == (row, c)) for c in columns}
    return "".join(f"<td>{players[c]}</td>" for c in columns)


def write_index(folder: Path) -> None:
    """Write the `index.html` of all steps: one row per sound, one column per step, early to late."""
    summaries = [_summary(path) for path in folder.glob(f"step_*/{_SUMMARY}")]
    steps = sorted((s for s in summaries if s is not None), key=lambda s: s["step"])
    names = list(dict.fromkeys((c["row"], c["column"], c["file"]) for s in steps for c in s["clips"]))
    links = "".join(f'<th><a href="{_folder(s["step"])}/index.html">step {s["step"]}</a></th>' for s in steps)
    body = ""
    for row, column, file in names:
        cells = ""
        for step in steps:
            match = next((c for c in step["clips"] if c["file"] == file), None)
            cells += f"<td>{_player(PageClip(**match), _folder(step['step']) + '/') if match else ''}</td>"
        body += (
            f"<tr><th>{html.escape(row)}<br><span class=level>{html.escape(column)}</span></th>{cells}</tr>"
        )
    _write(folder / "index.html", "Demos", f"<table><tr><th></th>{links}</tr>{body}</table>")


def _summary(path: Path) -> dict[str, Any] | None:
    """The summary that `write_step_page` wrote; None if it is damaged, which is logged."""
    try:
        summary = read_json_object(path)
        clips = [asdict(PageClip(**clip)) for clip in summary["clips"]]
        return {"step": int(summary["step"]), "clips": clips}
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s: left out of the page of all steps (%s)", path, error)
        return None


def _player(clip: PageClip, prefix: str = "") -> str:
    flag = '<span class="flag">clipped</span> ' if clip.clipped else ""
    source = html.escape(prefix + clip.file)
    return (
        f'<audio controls preload="none" src="{source}"></audio>'
        f'<span class="level">{flag}peak {clip.peak:.2f}</span>'
    )


def _folder(step: int) -> str:
    return f"step_{step:08d}"


def _write(path: Path, title: str, body: str) -> None:
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>{body}</html>\n"
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
