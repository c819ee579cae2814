"""The errors of this folder."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file, the reason and what to do."""


class NoConfigError(CheckpointError):
    """A file of weights with no config inside it or beside it, where none was given."""
