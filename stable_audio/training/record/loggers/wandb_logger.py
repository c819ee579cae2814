"""The scalars, sounds and pictures of a run for Weights & Biases."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from stable_audio.audio.atomic import atomic_write
from stable_audio.training.record.loggers.base import RunLogger


class WandbLogger(RunLogger):
    """Weights & Biases; offline with WANDB_MODE=offline."""

    @staticmethod
    def check() -> None:
        """Raise ValueError if a run could not log in and there is no terminal to type a key."""
        import wandb

        online = os.environ.get("WANDB_MODE", "online") == "online"
        if online and not sys.stdin.isatty() and not wandb.api.api_key:
            raise ValueError(
                "--logger wandb has no API key: run `wandb login`, set WANDB_API_KEY, or keep the run here "
                "with WANDB_MODE=offline"
            )

    def __init__(self, *, config: Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        try:
            import wandb
        except ImportError as error:
            raise ImportError('--logger wandb needs: pip install "stable-audio[wandb]"') from error
        self._wandb = wandb
        id_file = self.folder / "wandb_run_id"
        run_id = id_file.read_text() if self.resumed_at and id_file.is_file() else None
        self._run = wandb.init(
            project=self.project,
            name=self.name,
            dir=str(self.folder),
            config=dict(config or {}),
            id=run_id,
            resume="allow" if run_id else None,
        )
        with atomic_write(id_file) as temporary:
            temporary.write_text(self._run.id)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def audio(self, name: str, audio: Tensor, sample_rate: int, step: int, *, caption: str = "") -> None:
        sound = self._wandb.Audio(audio.clamp(-1, 1).cpu().numpy().T, sample_rate, caption=caption)
        self._run.log({name: sound}, step=step)

    def image(self, name: str, path: Path, step: int) -> None:
        self._run.log({name: self._wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        self._run.finish()
