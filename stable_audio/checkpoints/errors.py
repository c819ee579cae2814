"""The one error of this folder."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: one sentence that names the file, what was found and what to do."""
