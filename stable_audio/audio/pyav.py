"""PyAV, in the versions that there are: files whose tags are not the UTF-8 that they should be are read."""

from __future__ import annotations

from typing import Any

_WITHOUT_METADATA_ERRORS = 19
"""From this version on tags are always decoded; bytes that are not UTF-8 become surrogates."""


def open_container(file: Any) -> Any:
    """A container of PyAV for reading.

    Args:
        file: name, or file object.

    Raises:
        ImportError: PyAV is missing.
        av.FFmpegError: the file cannot be read.
    """
    import av

    if int(av.__version__.partition(".")[0]) >= _WITHOUT_METADATA_ERRORS:
        return av.open(file)
    return av.open(file, metadata_errors="ignore")


def tags_of(container: Any) -> dict[str, str]:
    """Tags of a container, without what is not UTF-8."""
    return {_decodable(name): _decodable(text) for name, text in container.metadata.items()}


def _decodable(text: str) -> str:
    return text.encode("utf-8", "ignore").decode("utf-8")
