"""The error of this folder."""

from __future__ import annotations


class TrainingError(ValueError):
    """A run that cannot start or continue; the message names the reason and what to do."""
