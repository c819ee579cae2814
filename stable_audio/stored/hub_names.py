"""Names of repositories and files on the Hugging Face hub, as they are written where a path may be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

WEIGHTS = (".safetensors", ".ckpt")
"""Suffixes of files of weights."""

SCHEME = "hf://"
"""What may precede a name, so that it is no path."""

_REPOSITORY = r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)"
# Of the scheme's two slashes a Path keeps one.
_NAME = re.compile(rf"(?:hf:/+)?{_REPOSITORY}(?P<rest>[@/].*)?")
_SPECIAL = re.compile(r"(refs/(?:pr|convert)/[\w.-]+)(/.*)?")
_REVISION = re.compile(r"[\w.%/-]+")
_BEGINNING = re.compile(r"(?:hf:/*|https?:/+(?:www\.)?(?:huggingface\.co|hf\.co)/+)", re.IGNORECASE)
_IN_URL = re.compile(rf"{_REPOSITORY}/(?:tree|blob|resolve)/(?P<revision>[^/]+)(?P<rest>/.*)?")
_CACHED = re.compile(r".*/models--([^/]+)--([^/]+)/snapshots/([^/]+)/(.+)")


@dataclass(frozen=True)
class HubName:
    """A repository of the hub, or one file in it.

    Attributes:
        repository: owner/name.
        revision: branch, tag or commit; None: the main branch.
        file: path of a file in the repository; None: the one that the repository is about.
    """

    repository: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return self.repository + revision + (f"/{self.file}" if self.file else "")


def parse(text: str) -> HubName | None:
    """Read `owner/name`, `owner/name@revision`, and with either `/path/of/file.safetensors` or `.ckpt`.

    `hf://` may precede it, also with one slash. A revision with slashes needs no file; before one,
    `refs/pr/1` is understood, and other slashes are written as %2F, as in the URLs of huggingface_hub.

    Returns:
        None if `text` is no such name.
    """
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    repository, rest = match["repository"], match["rest"] or ""
    if rest.startswith("/"):
        file = rest[1:]
        return HubName(repository, None, file) if _is_weights(file) else None
    revision, file = _split(rest[1:])
    if rest and not _REVISION.fullmatch(revision):
        return None
    return HubName(repository, revision.replace("%2F", "/") or None, file)


def how_to_write(text: str) -> str | None:
    """What to write instead of a text that is meant as a name on the hub and is none, such as
    `hf:owner/name`, `hf://owner/name/` or an address of huggingface.co; None if it is not meant as one, as
    what may be a path."""
    begin = _BEGINNING.match(text)
    if begin is None or parse(text) is not None:
        return None
    bare = text[begin.end() :].rstrip("/")
    if (place := _IN_URL.fullmatch(bare)) is not None:
        rest = place["rest"] or ""
        bare = f"{place['repository']}@{place['revision']}{rest if _is_weights(rest[1:]) else ''}"
    if parse(bare) is not None:
        return f"write {SCHEME}{bare}"
    return f"a name on the hub is {SCHEME}owner/name, and @revision or /file.safetensors may follow"


def _split(rest: str) -> tuple[str, str | None]:
    """Revision and file in what follows the `@`."""
    if not _is_weights(rest):
        return rest, None
    special = _SPECIAL.fullmatch(rest)
    revision, _, file = (special[1], "/", (special[2] or "/")[1:]) if special else rest.partition("/")
    return (revision, file) if file else (rest, None)


def _is_weights(file: str) -> bool:
    parts = file.split("/")
    return file.endswith(WEIGHTS) and ".." not in parts and "" not in parts and "@" not in file


def name_of_cached(path: Path) -> HubName | None:
    """The name, with its commit, of a file in the cache of huggingface_hub; None for any other file."""
    match = _CACHED.fullmatch(path.as_posix())
    return HubName(f"{match[1]}/{match[2]}", match[3], match[4]) if match else None
