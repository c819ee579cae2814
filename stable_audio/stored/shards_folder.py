"""Folders that hold a checkpoint in parts: how they are recognised, what they list, and which a run has."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from stable_audio.audio.json_files import JsonError, read_json_object

log = logging.getLogger(__name__)

SUFFIX, REST, COMPLETE = ".shards", "rest.ckpt", "complete.json"

_PART, _INDEX = ".distcp", ".metadata"
"""What torch.distributed.checkpoint calls the files with tensors, and the one that tells what is where."""

_STEP = re.compile(rf"step=(\d+){re.escape(SUFFIX)}")


def is_shards(path: Path) -> bool:
    """Whether `path` is such a folder, complete or not, by what it contains or else by its name."""
    if not path.is_dir():
        return False
    listed = (path / COMPLETE).is_file() and (path / REST).is_file()
    return path.suffix == SUFFIX or listed or any(path.glob(f"*{_PART}"))


def is_part(path: Path) -> bool:
    """Whether `path` is one of the files that such a folder consists of."""
    named = path.name in (COMPLETE, REST, _INDEX) or path.suffix == _PART
    return named and is_shards(path.absolute().parent)


def listed_files(folder: Path) -> dict[str, tuple[int, str]]:
    """The files that a folder consists of: name -> size and checksum.

    Raises:
        ValueError: there is no such list.
    """
    try:
        listed = read_json_object(folder / COMPLETE)["files"]
        return {name: (int(size), str(checksum)) for name, (size, checksum) in listed.items()}
    except (OSError, JsonError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{folder}: has no list of its parts ({COMPLETE}), so it was not written completely; take "
            "another checkpoint"
        ) from error


def check_complete(folder: Path) -> dict[str, tuple[int, str]]:
    """Refuse a folder that lacks parts, without reading them; returns `listed_files`.

    Raises:
        ValueError: with the first file that is missing or has another size.
    """
    listed = listed_files(folder)
    for name, (size, _) in listed.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(
                f"{folder}: lacks its part {name}; copy all {len(listed)} files of the folder, or take "
                "another checkpoint"
            )
        if path.stat().st_size != size:
            raise ValueError(damage(path))
    return listed


def damage(path: Path) -> str:
    """The message about a part that is not what was written."""
    return f"{path}: damaged since it was written; copy it again, or take another checkpoint"


def numbered_shards(folder: Path) -> list[tuple[int, Path]]:
    """(step, checkpoint in parts), complete or not, of the folder of a run, latest step first."""
    named = ((_STEP.fullmatch(path.name), path) for path in (folder / "checkpoints").glob(f"*{SUFFIX}"))
    return sorted(((int(match[1]), path) for match, path in named if match is not None), reverse=True)


def newest_shards(folder: Path, *, since: float = 0) -> Path | None:
    """The checkpoint in parts of the latest step in the folder of a run that is complete; None if none is.

    Args:
        since: earlier steps do not count.
    """
    for step, path in numbered_shards(folder):
        if step < since:
            break
        try:
            check_complete(path)
        except ValueError as error:
            log.warning("%s", error)
            continue
        return path
    return None
