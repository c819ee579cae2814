"""The user's own `get_custom_metadata(info, audio) -> dict`, loaded from a file."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import Tensor

from stable_audio.audio.padding import PaddingMask
from stable_audio.characters import whole
from stable_audio.data.base import DataError
from stable_audio.data.seeding import derive_seed, seeded_globally
from stable_audio.data.sendable import sendable
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
        function = getattr(self._module(), FUNCTION, None)
        if not callable(function):
            raise DataError(f"custom_metadata_module: {self.path} has no function {FUNCTION}(info, audio)")
        self._function = function
        return function

    def _module(self) -> ModuleType:
        """Import the file as a module that pickle, dataclasses and enums can find by its name."""
        name = f"stable_audio_custom_metadata_{derive_seed(self.path):x}"
        spec = importlib.util.spec_from_file_location(name, self.path)
        if spec is None or spec.loader is None:
            raise DataError(f"custom_metadata_module: {self.path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        previous = sys.modules.get(name)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            if previous is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = previous
            raise DataError(
                f"custom_metadata_module: {self.path} does not load: {self._user_error(error)}"
            ) from error
        return module

    def __call__(self, info: Metadata, audio: Tensor, seed: int = 0) -> Metadata:
        """Call the function and return its result. It receives `info` and `audio` themselves, not copies.

        Args:
            seed: seed of the generators of Python, numpy and torch during the call; their states are
                restored afterwards.

        Raises:
            ValueError: the function raised an error, returned no dict, or returned values that worker
                processes cannot send.
        """
        function = self._function or self._load()
        try:
            with seeded_globally(seed), _mask_as_tensor(info):
                result = function(info, audio)
        except (Exception, SystemExit) as error:
            raise ValueError(self._user_error(error)) from error
        if not isinstance(result, dict):
            raise ValueError(f"{FUNCTION} must return a dict, it returned {type(result).__name__}")
        return {
            whole(key): sendable(whole(value), f"{FUNCTION} returned '{key}'")
            for key, value in result.items()
        }

    def _user_error(self, error: BaseException) -> str:
        """Describe an error in the user's file, with its line."""
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == self.path]
        number = error.lineno if isinstance(error, SyntaxError) else next(reversed(lines), None)
        place = f"{os.path.basename(self.path)}, line {number}" if number else os.path.basename(self.path)
        if isinstance(error, SystemExit):
            return f"{place}: it ends the program (SystemExit: {error})"
        return f"{place}: {type(error).__name__}: {' '.join(str(error).split())}"

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_function": None}


@contextmanager
def _mask_as_tensor(info: Metadata) -> Iterator[None]:
    """Show the padding mask to the user's module as a tensor, as stable-audio-tools does."""
    mask = info.get("padding_mask")
    if not isinstance(mask, PaddingMask):
        yield
        return
    info["padding_mask"] = tensor = mask.tensor()
    try:
        yield
    finally:
        if info.get("padding_mask") is tensor:
            info["padding_mask"] = mask
