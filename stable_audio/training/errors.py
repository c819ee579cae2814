"""What stops a run."""

from __future__ import annotations


class TrainingError(ValueError):
    """A run that cannot start or go on: one sentence with what was found and what to do."""
