"""What a start of a run changes of the one before it: options, datasets, and the clips in them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_audio.audio.json_files import JsonError, read_json_object
from stable_audio.incidents import incident
from stable_audio.training.continuing import differences

log = logging.getLogger(__name__)

SETTINGS = (
    "accelerator",
    "accum_batches",
    "batch_size",
    "devices",
    "global_batch_size",
    "gradient_clip_val",
    "matmul_precision",
    "num_nodes",
    "precision",
    "seed",
    "strategy",
)
"""Options on which the results of a run depend, by themselves or by rounding."""


def name_changed_options(starts: Sequence[Any], options: Mapping[str, Any]) -> None:
    """Log the options on which results depend and that differ from those of the last start.

    Args:
        starts: the earlier starts of the run, as its record has them.
        options: those of this start.
    """
    before = starts[-1].get("options") if starts and isinstance(starts[-1], Mapping) else None
    if not isinstance(before, Mapping):
        return
    now = json.loads(json.dumps(dict(options), default=str))
    changed = [
        f"--{key.replace('_', '-')} was {json.dumps(before[key])} and is {json.dumps(now[key])}"
        for key in SETTINGS
        if key in before and before[key] != now[key]
    ]
    if changed:
        log.warning("changed since the last start: %s", "; ".join(changed), extra=incident("changed setting"))


def name_changed_files(folder: Path, files: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Log what differs between the dataset files of this start and those that the last one has left.

    Args:
        folder: folder of the run.
        files: name without suffix -> content; None: not used.
    """
    for name, content in files.items():
        try:
            before = read_json_object(folder / f"{name}.json")
        except (OSError, JsonError):
            continue
        if content is None:
            continue
        now = json.loads(json.dumps(content, default=str))
        for change in differences("$", before, now):
            log.warning(
                "changed since the last start: %s.json, %s: %s, now %s",
                name,
                change.path,
                json.dumps(change.before),
                json.dumps(change.now),
                extra=incident("changed setting"),
            )


def name_changed_clips(starts: Sequence[Any], data: Mapping[str, Any]) -> None:
    """Log that the clips are not those of the last start.

    Args:
        starts: the earlier starts of the run, as its record has them.
        data: facts about the clips now: {"clips", "names_sha256", ...}.
    """
    known = [start["data"] for start in starts if isinstance(start, Mapping) and start.get("data")]
    before = known[-1] if known else None
    keys = ("clips", "names_sha256")
    if not isinstance(before, Mapping) or all(before.get(key) == data.get(key) for key in keys):
        return
    log.warning(
        "the dataset has changed since the last start: %s clips then, %s now; the run goes on with these, in "
        "an order of their own",
        before.get("clips"),
        data.get("clips"),
        extra=incident("changed data"),
    )
