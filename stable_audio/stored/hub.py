"""Files of the Hugging Face hub, through huggingface_hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stable_audio.network import hub_in_reach


def hub_file(name: str, filenames: Sequence[str]) -> Path:
    """The first of `filenames` that a repository has, downloaded now or before.

    Args:
        name: owner/name, or owner/name@revision.

    Raises:
        ImportError: huggingface_hub is not installed.
        OSError: the hub cannot be reached and the files were never downloaded.
        ValueError: there is no such repository, or it has none of the files.
    """
    hub, errors = _library(name)
    repository, _, revision = name.partition("@")
    offline: Exception | None = None
    for filename in filenames:
        try:
            # After one failure to reach the hub, look among downloaded files only instead of waiting again.
            local = offline is not None or not hub_in_reach()
            options = {"revision": revision or None, "local_files_only": local}
            return Path(hub.hf_hub_download(repository, filename, **options))
        except errors.LocalEntryNotFoundError as error:
            offline = error  # another of the files may have been downloaded before
        except errors.EntryNotFoundError:
            continue
        except errors.HfHubHTTPError as error:
            raise ValueError(
                f"the hub has no '{name}' that can be read ({_first_line(error)}); check owner, name and "
                "revision, and log in with `hf auth login` where the model asks for it"
            ) from error
    if offline is not None:
        raise OSError(
            f"'{name}' is no local path, and as a hub id it cannot be downloaded: the hub cannot be reached; "
            "connect to the network, or name a file"
        ) from offline
    raise ValueError(f"'{name}' on the hub has none of {', '.join(filenames)}")


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


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
