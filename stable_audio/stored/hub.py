"""Files of the Hugging Face hub, through huggingface_hub: its cache, token and variables count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stable_audio.network import hub_in_reach
from stable_audio.stored.hub_errors import explained, transport_errors
from stable_audio.stored.hub_names import WEIGHTS, HubName, how_to_write, parse


def hub_file(name: str | HubName, filenames: Sequence[str]) -> Path:
    """The first of `filenames` that a repository has, downloaded now or before.

    Args:
        name: owner/name, or owner/name@revision.

    Raises:
        ImportError: huggingface_hub is not installed.
        OSError: the hub cannot be reached and the files were never downloaded, or a download failed.
        ValueError: there is no such repository, it may not be read, or it has none of the files.
    """
    file = optional_hub_file(name, filenames)
    if file is None:
        raise ValueError(f"'{name}' on the hub has none of {', '.join(filenames)}")
    return file


def optional_hub_file(name: str | HubName, filenames: Sequence[str]) -> Path | None:
    """As `hub_file`; None if the repository is there and has none of the files.

    Raises:
        ImportError, OSError, ValueError: see `hub_file`.
    """
    name = _parsed(name)
    hub, errors = _library(str(name))
    failure: Exception | None = None
    for filename in filenames:
        # After one failure, look among downloaded files only: the hub would be waited for or asked in vain.
        local = failure is not None or not hub_in_reach()
        options = {"revision": name.revision, "local_files_only": local}
        try:
            return Path(hub.hf_hub_download(name.repository, filename, **options))
        except errors.LocalEntryNotFoundError as error:
            failure = failure or error  # another of the files may have been downloaded before
        except errors.EntryNotFoundError:
            continue
        except transport_errors(errors) as error:
            failure = failure or error
    if failure is not None:
        raise explained(name, failure, errors) from failure
    return None


def hub_weights(name: str | HubName, usual: Sequence[str]) -> Path:
    """The file of weights in a repository: the one that `name` says, or the first of `usual`, or the only.

    Raises:
        ImportError, OSError: see `hub_file`.
        ValueError: see `hub_file`; or there are several files of weights, none with a usual name.
    """
    name = _parsed(name)
    if name.file is not None:
        return hub_file(HubName(name.repository, name.revision), [name.file])
    file = optional_hub_file(name, usual)
    if file is not None:
        return file
    others = _other_weights(name)
    if len(others) == 1:
        return hub_file(name, others)
    if not others:
        raise ValueError(f"'{name}' on the hub has none of {', '.join(usual)}")
    choices = ", ".join(str(HubName(name.repository, name.revision, other)) for other in others[:4])
    raise ValueError(f"'{name}' on the hub has {len(others)} files of weights; name one: {choices}")


def _other_weights(name: HubName) -> list[str]:
    """Files of weights at the top of a repository, which is known to exist."""
    hub, errors = _library(str(name))
    try:
        files = hub.HfApi().list_repo_files(name.repository, revision=name.revision)
    except transport_errors(errors) as error:
        raise explained(name, error, errors) from error
    return sorted(file for file in files if file.endswith(WEIGHTS) and "/" not in file)


def _parsed(name: str | HubName) -> HubName:
    parsed = name if isinstance(name, HubName) else parse(name)
    if parsed is None:
        advice = how_to_write(str(name))
        raise ValueError(f"'{name}' is no hub id ({advice or 'owner/name, or owner/name@revision'})")
    return parsed


def _library(name: str) -> tuple[Any, Any]:
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise ImportError(
            f"'{name}' is no local path, and as a hub id it needs huggingface_hub: "
            'pip install "stable-audio[text]"'
        ) from error
    return huggingface_hub, errors
