"""`run.html`: one page about a run, written at each end: what happened, curves, where it ran."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from stable_audio.audio.atomic import atomic_write
from stable_audio.characters import shown
from stable_audio.checkpoints.steps import step_in
from stable_audio.inference.memory.reserve import readable_size
from stable_audio.training.record.curves import curves
from stable_audio.training.record.run_record import FIRST_INCIDENTS, RECORD, read_record
from stable_audio.wording import plural

log = logging.getLogger(__name__)

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .2rem .6rem .2rem 0; }
td { border-bottom: 1px solid #8884; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #8882; padding: .5rem; }
svg { width: 100%; height: auto; background: #8881; }
polyline { fill: none; stroke: #26c; stroke-width: 1.5; vector-effect: non-scaling-stroke; }
svg path { fill: none; stroke: #c33; stroke-width: 2; vector-effect: non-scaling-stroke; }
"""


def write_page(folder: Path) -> None:
    """Write the page of the run in `folder` from its files; failures are logged."""
    try:
        page = _page(folder)
        with atomic_write(folder / "run.html") as temporary:
            temporary.write_text(shown(page), encoding="utf-8")
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.error("the page of the run was not written (%s)", error)


def _page(folder: Path) -> str:
    record = read_record(folder / RECORD)
    starts = [start for start in record["starts"] if isinstance(start, dict)]
    incidents = [entry for entry in record["incidents"] if isinstance(entry, dict)]
    name = escape(folder.resolve().name)
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><style>{_STYLE}</style>',
        f"<h1>{name}</h1><p>{escape(_outcome(starts))}</p>",
        _section("Files", _table((), _files(folder))),
        _section("What happened", _incidents(incidents, int(record.get("further_incidents", 0)))),
        _section("Curves", "".join(curves(folder / "metrics.csv"))),
        _section("Starts", _table(("started", "from", "until", "command"), map(_start, starts))),
    ]
    if starts:
        parts.append(_section("The last start", _details(starts[-1])))
    return "".join(parts)


def _outcome(starts: Sequence[Mapping[str, Any]]) -> str:
    ended = starts[-1].get("ended") if starts else None
    if not isinstance(ended, dict):
        return "The run has not ended in order."
    words = {"finished": "Finished", "stopped": "Stopped", "interrupted": "Interrupted"}
    reason = f": {ended['error']}" if ended.get("error") else ""
    how = words.get(str(ended.get("kind")), f"Ended ({ended.get('kind')})")
    return f"{how} at step {ended.get('step')}{reason}"


def _start(start: Mapping[str, Any]) -> tuple[str, ...]:
    ended = start.get("ended")
    until = (
        "not in order" if not isinstance(ended, dict) else f"step {ended.get('step')}, {ended.get('kind')}"
    )
    resumed = start.get("resumed_from") or "the beginning"
    return str(start.get("started", "")), str(resumed), until, str(start.get("command", ""))


def _incidents(incidents: Sequence[Mapping[str, Any]], further: int) -> str:
    if not incidents:
        return "<p>Nothing.</p>"
    rows = [(str(entry.get("time", "")), _told(entry)) for entry in incidents]
    if further:
        rows.insert(FIRST_INCIDENTS, ("", f"{plural(further, 'more incident')} in between, in log.txt"))
    return _table(("time", "incident"), rows)


def _told(entry: Mapping[str, Any]) -> str:
    """What an incident is, and which process tells of it if that is not the first one."""
    process = f"process {entry['process']}: " if entry.get("process") else ""
    return f"{process}{entry.get('text', '')}"


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    for name in ("last.safetensors", "best.safetensors", "last.ckpt", "metrics.csv", "log.txt", "run.json"):
        if (folder / name).is_file():
            size = readable_size((folder / name).stat().st_size)
            at = step_in(folder / name) if name.startswith("last.") else math.inf
            yield f"link:{name}", size if at == math.inf else f"{size}, of step {at:,.0f}"
    if (folder / "demos" / "index.html").is_file():
        yield "link:demos/index.html", "the demos"


def _details(start: Mapping[str, Any]) -> str:
    shown = {key: start[key] for key in start if key not in ("command", "ended")}
    return f"<pre>{escape(json.dumps(shown, indent=2, default=str))}</pre>"


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>{content}" if content else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    body = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{f'<tr>{titles}</tr>' if head else ''}{body}</table>"


def _cell(text: str) -> str:
    name = text.removeprefix("link:")
    return escape(text) if name == text else f'<a href="{escape(name)}">{escape(name)}</a>'
