"""The user's own `get_custom_metadata(info, audio) -> dict`, loaded from a file."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

from torch import Tensor

from stable_audio.data.base import DataError
from stable_audio.data.seeding import derive_seed
from stable_audio.types import Metadata

FUNCTION = "get_custom_metadata"


class CustomMetadata:
    """Calls the function of a Python file. Each worker process loads the file for itself.

    Raises:
        DataError: the file does not exist, does not load, or lacks the function.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._function: Callable[[Metadata, Tensor], Any] | None = None
        self._load()

    def _load(self) -> Callable[[Metadata, Tensor], Any]:
        if not os.path.isfile(self.path):
            raise DataError(f"custom_metadata_module: {self.path} is not a file")
        name = f"stable_audio_custom_metadata_{derive_seed(self.path):x}"
        spec = importlib.util.spec_from_file_location(name, self.path)
        if spec is None or spec.loader is None:
            raise DataError(f"custom_metadata_module: {self.path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise DataError(f"custom_metadata_module: {self.path} does not load: {error!r}") from error
        function = getattr(module, FUNCTION, None)
        if not callable(function):
            raise DataError(f"custom_metadata_module: {self.path} has no function {FUNCTION}(info, audio)")
        self._function = function
        return function

    def __call__(self, info: Metadata, audio: Tensor) -> Metadata:
        """What the function returns; it receives copies of nothing and may read `info` and `audio`.

        Raises:
            ValueError: it raised something, or returned no dict.
        """
        function = self._function or self._load()
        try:
            result = function(info, audio)
        except Exception as error:
            name = os.path.basename(self.path)
            raise ValueError(f"{FUNCTION} in {name} raised {type(error).__name__}: {error}") from error
        if not isinstance(result, dict):
            raise ValueError(f"{FUNCTION} must return a dict, it returned {type(result).__name__}")
        return result

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_function": None}
