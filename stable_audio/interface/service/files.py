"""Results and uploads on disk; a file is there as a whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from stable_audio.audio.atomic import atomic_write
from stable_audio.audio.io import read_audio, save_audio
from stable_audio.audio.json_files import read_json_object
from stable_audio.audio.rates import rate_in
from stable_audio.audio.resample import resample

Format = Literal["wav", "flac", "mp3", "ogg", "opus"]
"""Formats in which results are sent."""

Subtype = Literal["16", "24", "32", "float"]
"""Sample formats of some of them."""

_SOUND, _FACTS = "sound.wav", "sound.json"


class ResultFiles:
    """The results, one folder each: the sound in float32, its recipe, and what was made of them since.

    Args:
        folder: folder of all of them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def scratch(self, number: int) -> Path:
        """A folder for the files of a batch while they are written."""
        return self._folder / f".batch-{os.getpid()}-{number}"

    def clear_scratch(self) -> None:
        """Remove what processes left that were killed."""
        for path in self._folder.glob(".batch-*"):
            shutil.rmtree(path, ignore_errors=True)

    def adopt(self, sound: Path, id: str) -> None:
        """Move a finished sound and the JSON beside it to their place, the JSON last."""
        folder = self._folder / id
        folder.mkdir(parents=True, exist_ok=True)
        os.replace(sound, folder / _SOUND)
        os.replace(sound.with_suffix(".json"), folder / _FACTS)

    def sound(self, id: str) -> Path:
        """The sound of a job, in float32."""
        return self._folder / id / _SOUND

    def facts(self, id: str) -> Path:
        """The JSON beside the sound, which marks it as complete."""
        return self._folder / id / _FACTS

    def figures(self, id: str) -> dict[str, Any]:
        """What clients are told of a finished sound."""
        output = read_json_object(self.facts(id))["output"]
        figures = {key: value for key, value in output.items() if key != "file"}
        # Float32 holds what is above 1, which most formats that are sent do not.
        own = {"seconds": output["samples"] / output["sample_rate"], "clipped": output["peak"] > 1}
        return {**figures, **own}

    def exists(self, id: str) -> bool:
        return self.facts(id).is_file() and self.sound(id).is_file()

    def remove(self, id: str) -> None:
        """Remove all files of a job."""
        self.facts(id).unlink(missing_ok=True)
        shutil.rmtree(self._folder / id, ignore_errors=True)

    def converted(self, id: str, format: str, subtype: str | None, comment: str | None) -> Path:
        """The sound in a format that `stable-audio generate` writes, made when it is first asked for.

        Raises:
            AudioError: the format cannot hold it.
            FileNotFoundError: the result was removed.
        """
        path = self._folder / id / f"sound-{subtype or 'usual'}.{format}"
        if path.is_file():
            return path
        audio, sample_rate = read_audio(self.sound(id))
        rate = rate_in(format, sample_rate)
        save_audio(path, resample(audio, sample_rate, rate), rate, subtype=subtype, comment=comment)
        return path

    def derived(self, id: str, name: str, make: Callable[[Path], bytes]) -> bytes:
        """What `make` makes of the sound, such as a picture; it is kept for the next time."""
        path = self._folder / id / name
        if path.is_file():
            return path.read_bytes()
        content = make(self.sound(id))
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
        return content
