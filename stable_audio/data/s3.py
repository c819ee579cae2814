"""Tars in S3, copied to this machine by the `aws` program."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_audio.audio.atomic import atomic_write
from stable_audio.data.base import DataError, Rejected


def default_cache() -> str:
    """Default folder for copied tars, inside the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "stable_audio", "tars")


def fetch_tars(
    s3_path: str, cache_dir: str, *, profile: str | None = None
) -> tuple[list[str], list[Rejected]]:
    """Copy the tars below an S3 path to `cache_dir` with the `aws` program, unless they are there already.

    Returns:
        the paths of the copies, and the keys refused because they would be written outside the cache.

    Raises:
        DataError: the program is missing, or fails, or finds no tar.
    """
    bucket = bucket_of(s3_path)
    paths: list[str] = []
    refused: list[Rejected] = []
    for line in _aws(["s3", "ls", s3_path, "--recursive"], profile).splitlines():
        fields = line.split(maxsplit=3)
        if len(fields) < 4 or not fields[3].endswith(".tar") or not fields[2].isdigit():
            continue
        size, key = int(fields[2]), fields[3]
        if _escapes(key):
            reason = "not copied: '..', an empty part or a leading slash in its key leads out of the cache"
            refused.append(Rejected(f"s3://{bucket}/{key}", reason))
            continue
        target = Path(cache_dir) / bucket / key
        if not (target.exists() and target.stat().st_size == size):
            with atomic_write(target) as temporary:
                _aws(["s3", "cp", f"s3://{bucket}/{key}", str(temporary)], profile)
        paths.append(str(target))
    if not paths:
        raise DataError(
            f"{s3_path}: no .tar file found" + "".join(f"; {r.path} {r.reason}" for r in refused[:1])
        )
    return sorted(paths), refused


def bucket_of(s3_path: str) -> str:
    """The bucket of s3://bucket/prefix.

    Raises:
        DataError: it names no bucket.
    """
    bucket = s3_path.removeprefix("s3://").split("/")[0]
    if not bucket or _escapes(bucket):
        raise DataError(f"s3_path: s3://bucket/prefix is needed, found {s3_path!r}")
    return bucket


def s3_problems(config: Mapping[str, Any]) -> list[str]:
    """Problems of a dataset file with S3 paths that can be detected without the network."""
    problems, paths = [], []
    for number, entry in enumerate(config.get("datasets", ())):
        if (entry.get("path") is None) == (entry.get("s3_path") is None):
            problems.append(f"$.datasets[{number}]: give either path or s3_path")
        elif entry.get("s3_path") is None and not os.path.exists(entry["path"]):
            problems.append(f"{entry['path']}: there is no such folder")
        elif entry.get("s3_path") is not None:
            paths.append(entry["s3_path"])
    for path in paths:
        try:
            bucket_of(path)
        except DataError as error:
            problems.append(str(error))
    if config.get("remove_silence"):
        problems.append("$.remove_silence: not offered; use strip_silence for the end of files")
    if paths and shutil.which("aws") is None:
        problems.append(_MISSING)
    return problems


_MISSING = "s3_path needs the `aws` command-line program, which is not installed"


def _escapes(key: str) -> bool:
    components = key.replace("\\", "/").split("/")
    return any(component in ("", ".", "..") for component in components) or "\0" in key


def _aws(arguments: list[str], profile: str | None) -> str:
    command = ["aws", *arguments, *(["--profile", profile] if profile else [])]
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise DataError(_MISSING) from error
    if process.returncode != 0:
        reason = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(f"`{' '.join(command)}` failed: {reason}")
    return process.stdout
