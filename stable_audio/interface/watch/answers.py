"""What the page asks for, as JSON values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stable_audio.audio.demo_page import read_steps
from stable_audio.interface.watch.configs import differences, settings_of
from stable_audio.interface.watch.library import Library
from stable_audio.interface.watch.runs import WatchedRun

LEVELS = "model/loss_all_"
"""Begin of the columns with the loss in a range of the noise level."""

MOST_INCIDENTS = 200
"""Incidents of a run that the page lists, the last ones."""

GROUPS = {
    "loss": ("train/loss",),
    "validation": ("val/",),
    "learning rate": ("train/lr",),
    "gradient norm": ("train/grad_norm", "train/discriminator_grad_norm"),
    "steps per second": ("speed/steps_per_second",),
    "seconds of audio per second": ("speed/audio_seconds_per_second",),
    "data wait": ("speed/data_wait",),
    "seconds of a step": ("speed/time_", "time/"),
    "use of the device": ("speed/mfu",),
    "memory (GiB)": ("speed/peak_memory", "memory/"),
    "padding": ("speed/padding",),
    "slowest process": ("speed/slowest_process_lag",),
    "terms of the loss": ("train/",),
}
"""Charts: title -> beginnings of the columns in it; a column belongs to the first that fits."""


def runs(library: Library) -> dict[str, Any]:
    """All runs; some of their numbers are rough until `complete`."""
    complete = library.refresh()
    return {
        "folders": [str(folder) for folder in library.folders],
        "complete": complete,
        "runs": library.summaries(),
    }


def run(library: Library, name: str) -> dict[str, Any]:
    """The curves of one run by chart, the loss by noise level, and the end of its log.

    Raises:
        KeyError: there is no run of this name.
    """
    with library.run(name) as watched:
        return _answered(watched)


def _answered(watched: WatchedRun) -> dict[str, Any]:
    metrics = watched.whole or watched.metrics
    curves = metrics.all_curves()
    charts: dict[str, list[str]] = {title: [] for title in GROUPS}
    others: list[str] = []
    for column in metrics.columns:
        if column.startswith(LEVELS):
            continue
        title = next((t for t, begins in GROUPS.items() if column.startswith(begins)), None)
        (charts[title] if title is not None else others).append(column)
    levels = [column for column in metrics.columns if column.startswith(LEVELS)]
    return {
        "name": watched.name,
        "changes": watched.metrics.changes,
        "complete": metrics.complete,
        "charts": [{"title": title, "columns": columns} for title, columns in charts.items() if columns],
        "others": others,
        "levels": sorted(levels, key=_level),
        "series": {column: curves.series(column) for column in metrics.columns},
        "latest": metrics.latest,
        "start": dict(watched.start),
        "incidents": [dict(entry) for entry in watched.incidents[-MOST_INCIDENTS:]],
        "log": watched.log[-8000:],
    }


def demos(library: Library, name: str) -> dict[str, Any]:
    """The steps of a run that have demos.

    Raises:
        KeyError: there is no run of this name.
    """
    return {"steps": [step.step for step in read_steps(library.folder(name) / "demos")]}


def compared(library: Library, first: str, second: str) -> dict[str, Any]:
    """Where the files and options of two runs differ.

    Raises:
        KeyError: there is no run of one of the names.
    """
    folders: list[Path] = [library.folder(name) for name in (first, second)]
    one, other = (settings_of(folder) for folder in folders)
    return {"differences": list(differences(one, other))}


def _level(column: str) -> float:
    try:
        return float(column.removeprefix(LEVELS))
    except ValueError:
        return 0.0
