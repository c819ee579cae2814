"""What a start of a run changes of the one before it: options, datasets, and the clips in them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_audio.audio.json_files import JsonError, read_json_object
from stable_audio.incidents import incident
from stable_audio.training.batches.step_clips import StepClips, other_clips
from stable_audio.training.precision_names import precision_name
from stable_audio.training.record.run_record import last_start
from stable_audio.training.saving.continuing import differences
from stable_audio.wording import flag_of, plural

log = logging.getLogger(__name__)

SETTINGS = (
    "accelerator",
    "gradient_clip_val",
    "matmul_precision",
    "precision",
    "seed",
    "strategy",
)
"""Options on which the results of a run depend, by themselves or by rounding. Those that share the clips of a
step among processes and batches count together, as `StepClips`."""


def name_changed_options(starts: Sequence[Any], options: Mapping[str, Any], *, processes: int) -> None:
    """Log the options on which results depend and that differ from those of the last start.

    Args:
        starts: the earlier starts of the run, as its record has them.
        options: those of this start.
        processes: number of its processes.
    """
    if (last := last_start(starts)) is None:
        return
    now = json.loads(json.dumps(dict(options), default=str))
    _name_options(last, {"processes": processes, "options": now})
    _name_clips_of_steps(last, {"processes": processes, "options": now})


def _name_options(last: Mapping[str, Any], this: Mapping[str, Any]) -> None:
    before, now = last["options"], this["options"]
    changed = [
        f"{flag_of(key)} was {json.dumps(before[key])} and is {json.dumps(now[key])}"
        for key in SETTINGS
        # The same name may mean something else for another number of processes, which was not asked for.
        if key in before and before[key] != now[key] and _meaning(last, key) != _meaning(this, key)
    ]
    if changed:
        log.warning("changed since the last start: %s", "; ".join(changed), extra=incident("changed setting"))


def _name_clips_of_steps(last: Mapping[str, Any], this: Mapping[str, Any]) -> None:
    before, now = StepClips.of(last), StepClips.of(this)
    change = None if before is None or now is None else other_clips(before, now)
    if change is not None:
        log.warning("changed since the last start: %s", change, extra=incident("changed setting"))


def _meaning(start: Mapping[str, Any], key: str) -> Any:
    """What an option means for a start: names that are the same have one value."""
    value = start["options"][key]
    if key == "strategy":
        return _strategy(start)
    if key == "precision":
        return precision_name(value)
    return "gpu" if key == "accelerator" and value == "cuda" else value


def _strategy(start: Mapping[str, Any]) -> Any:
    """What --strategy means for the processes of a start: names that are the same have one value."""
    from stable_audio.training.processes.splitting import SPLITTING  # late, since it imports Lightning

    same_as_ddp = ("auto", "", *(SPLITTING if start.get("processes") == 1 else ()))
    name = start["options"].get("strategy")
    return "ddp" if name in same_as_ddp else name


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
        data: facts about the clips now: {"clips", "names_sha256", "sizes_sha256", ...}. Earlier versions
            recorded no sizes, and no digest of many names.
    """
    recorded = [start["data"] for start in starts if isinstance(start, Mapping) and start.get("data")]
    before = recorded[-1] if recorded else None
    if not isinstance(before, Mapping):
        return
    known = [key for key in ("names_sha256", "sizes_sha256") if before.get(key) is not None]
    changed = [key for key in ("clips", *known) if before.get(key) != data.get(key)]
    if changed == ["sizes_sha256"]:
        log.warning(
            "the dataset has changed since the last start: of its %s, which have the same names, some are of "
            "another size; the run goes on with what is there now",
            plural(data["clips"], "clip"),
            extra=incident("changed data"),
        )
    elif changed:
        _name_other_clips(before, data)


def _name_other_clips(before: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    log.warning(
        "the dataset has changed since the last start: %s then, %s now; the run goes on with these, in "
        "an order of their own",
        plural(before.get("clips"), "clip"),  # type: ignore[arg-type]
        data.get("clips"),
        extra=incident("changed data"),
    )
