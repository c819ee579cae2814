"""Tar files as random-access collections of samples: an index of their headers, no extraction."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stable_audio.audio.atomic import atomic_write
from stable_audio.audio.json_files import parse_json_object
from stable_audio.audio.slices import FileSlice
from stable_audio.data.base import DataError, Rejected
from stable_audio.data.scan import scan_folder


class Sample(NamedTuple):
    """Members of one tar that share a key. key: "folder/name"; parts: suffix without dot -> bytes."""

    tar: str
    key: str
    parts: Mapping[str, FileSlice]

    @property
    def name(self) -> str:
        return f"{self.tar}/{self.key}"

    def first(self, suffixes: Sequence[str]) -> FileSlice | None:
        """The part with the first of the suffixes that is there."""
        return next((self.parts[s] for s in suffixes if s in self.parts), None)

    def metadata(self) -> dict[str, Any]:
        """The JSON part; raises ValueError when it is missing or no object."""
        part = self.parts.get("json")
        if part is None:
            raise ValueError("has no .json beside it in the tar")
        try:
            return parse_json_object(part.read(), source=part.name)
        except OSError as error:
            raise ValueError(f"{part.name} cannot be read ({error})") from error


def find_tars(path: str) -> tuple[list[str], list[Rejected]]:
    """A tar, or the tars below a folder.

    Raises:
        DataError: there are none.
    """
    if os.path.isfile(path):
        return [path], []
    tars, problems = scan_folder(path, {".tar"})
    if not tars:
        raise DataError(f"{path}: no .tar file found")
    return tars, problems


def index_tar(path: str) -> tuple[list[Sample], list[Rejected]]:
    """The samples of a tar in their order, and what is cut off or not a tar at all."""
    size = os.path.getsize(path)
    members: list[tarfile.TarInfo] = []
    problems: list[Rejected] = []
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                members.append(member)
    except (tarfile.TarError, OSError) as error:
        problems.append(Rejected(path, f"not a tar that can be read in place ({error})"))
    groups: dict[str, dict[str, FileSlice]] = {}
    for member in members:
        if not member.isfile() or os.path.basename(member.name).startswith("."):
            continue
        name = f"{path}/{member.name}"
        if member.offset_data + member.size > size:
            problems.append(Rejected(name, "cut off: the tar ends within it"))
            continue
        folder, base = os.path.split(member.name)
        key, _, suffix = base.partition(".")
        part = FileSlice(path, member.offset_data, member.size, name)
        groups.setdefault(os.path.join(folder, key), {})[suffix.lower()] = part
    return [Sample(path, key, parts) for key, parts in groups.items()], problems


def fetch_tars(s3_path: str, cache_dir: str, *, profile: str | None = None) -> list[str]:
    """Copy the tars below an S3 path to `cache_dir`, those that are not there yet, with the `aws` program.

    Raises:
        DataError: the program is missing, or fails, or finds no tar.
    """
    bucket = s3_path.removeprefix("s3://").split("/")[0]
    listing = _aws(["s3", "ls", s3_path, "--recursive"], profile)
    local: list[str] = []
    for line in listing.splitlines():
        fields = line.split(maxsplit=3)
        if len(fields) < 4 or not fields[3].endswith(".tar"):
            continue
        size, key = int(fields[2]), fields[3]
        target = Path(cache_dir) / bucket / key
        if not (target.exists() and target.stat().st_size == size):
            with atomic_write(target) as temporary:
                _aws(["s3", "cp", f"s3://{bucket}/{key}", str(temporary)], profile)
        local.append(str(target))
    if not local:
        raise DataError(f"{s3_path}: no .tar file found")
    return sorted(local)


def _aws(arguments: list[str], profile: str | None) -> str:
    command = ["aws", *arguments, *(["--profile", profile] if profile else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise DataError("s3_path needs the `aws` command-line program, which is not installed") from error
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(f"`{' '.join(command)}` failed: {reason}")
    return done.stdout
