"""The interface of all loggers of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor


class RunLogger:
    """Base of the loggers: logs nothing.

    Args:
        folder: folder of the run.
        name: name of the run.
        project: project of the run; "" = the name of the run.
        config: the model config.
        resumed_at: the step from which a resumed run continues; later entries of the old run are dropped.
    """

    def __init__(
        self,
        *,
        folder: Path,
        name: str,
        project: str = "",
        config: Mapping[str, Any] | None = None,
        resumed_at: int = 0,
    ) -> None:
        self.folder, self.name, self.resumed_at = Path(folder), name, resumed_at
        self.project = project or name

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers of one step."""

    def audio(self, name: str, audio: Tensor, sample_rate: int, step: int, *, caption: str = "") -> None:
        """Log a sound (c n)."""

    def image(self, name: str, path: Path, step: int) -> None:
        """Log a picture that is already on disk."""

    def rewind(self, step: int) -> None:
        """The run goes back to `step`: drop what was logged after it, where that can be dropped."""

    def close(self) -> None:
        """Write everything that is buffered."""
