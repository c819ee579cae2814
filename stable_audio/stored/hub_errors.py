"""Why a file of the Hugging Face hub could not be fetched, in one sentence that says what to do."""

from __future__ import annotations

import os
from typing import Any

from stable_audio.network import ENDPOINT, hub_in_reach
from stable_audio.stored.hub_names import HubName

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def transport_errors(errors: Any) -> tuple[type[Exception], ...]:
    """What the clients of the hub raise, beside files that are not there: answers, failures of the network.

    Args:
        errors: the module huggingface_hub.errors.
    """
    # The base is that of the HTTP library, which differs between versions of huggingface_hub.
    return (errors.HfHubHTTPError, errors.HfHubHTTPError.__bases__[0], OSError, errors.HFValidationError)


def explained(name: HubName, error: Exception, errors: Any) -> Exception:
    """The error to raise in place of `error`: a ValueError if the name or the access to it is at fault, an
    OSError if the network or the disk is.

    Args:
        name: what was asked for.
        error: what a client of the hub raised.
        errors: the module huggingface_hub.errors.
    """
    repository = name.repository
    if isinstance(error, errors.LocalEntryNotFoundError):
        return _not_fetched(name, error, errors)
    if isinstance(error, errors.GatedRepoError):
        return ValueError(f"'{repository}' on the hub is gated: {_way_in(repository)}")
    if isinstance(error, errors.RevisionNotFoundError):
        return ValueError(f"'{repository}' on the hub has no revision '{name.revision}'")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ValueError(
            f"'{name}' is no local path, and the hub has no repository '{repository}', or a private one; "
            f"check the name, or {LOG_IN}"
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _refused(name, error)
    if isinstance(error, errors.HFValidationError):
        return ValueError(f"'{name}' is no local path, and no hub id either: {_first_line(error)}")
    if isinstance(error, OSError) and error.filename is not None:  # the disk
        return OSError(f"'{name}' cannot be stored: {error.filename}: {error.strerror}")
    return OSError(
        f"the download of '{name}' from the hub failed ({_first_line(error)}); try again, which continues it"
    )


def _not_fetched(name: HubName, error: Exception, errors: Any) -> Exception:
    # The client says that a file is not in the cache whatever the hub has answered.
    if isinstance(error.__cause__, errors.HfHubHTTPError):
        return explained(name, error.__cause__, errors)
    start = f"'{name}' is no local path, and as a hub id it"
    if hub_in_reach():
        return OSError(f"{start} could not be looked up ({_first_line(error.__cause__ or error)}); try again")
    if "HF_HUB_OFFLINE" in os.environ:
        return OSError(
            f"{start} cannot be downloaded: the hub cannot be reached, or HF_HUB_OFFLINE forbids it, and the "
            "cache does not have it; connect to the network, or name a file"
        )
    return OSError(
        f"{start} cannot be downloaded: the hub cannot be reached; connect to the network, or name a file"
    )


def _refused(name: HubName, error: Any) -> Exception:
    status = error.response.status_code
    reason = getattr(error, "server_message", None) or _first_line(error)
    if status in (401, 403):
        return ValueError(
            f"the hub refuses '{name}' ({status}: {reason}); {LOG_IN} of an account that may read"
        )
    return OSError(f"the hub cannot give '{name}' ({status}: {reason}); try again later, or name a file")


def _way_in(repository: str) -> str:
    import huggingface_hub

    page = f"{os.environ.get('HF_ENDPOINT', ENDPOINT).rstrip('/')}/{repository}"
    if huggingface_hub.get_token():
        return f"accept its terms at {page} with the account of the token in use, or use another token"
    return f"accept its terms at {page}, then {LOG_IN}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120].rstrip(". ")
