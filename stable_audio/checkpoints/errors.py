"""The one error of this folder."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file, the reason and what to do."""
