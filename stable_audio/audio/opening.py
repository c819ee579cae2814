"""Open sound files, and turn every error on the way into an AudioError."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import soundfile

from stable_audio.audio.errors import AudioError
from stable_audio.audio.slices import FileSlice
from stable_audio.characters import fault


def system_name(path: str | os.PathLike[str]) -> str | bytes:
    """The name of a file as libsndfile takes it: in bytes where it is not UTF-8."""
    name = os.fspath(path)
    return name if fault(name) is None else os.fsencode(name)


def open_file(name: str, part: FileSlice | None) -> BinaryIO:
    """Open a regular file unbuffered; pipes and devices, which could block for ever, are refused."""
    if part is not None:
        return part.open_unbuffered()
    descriptor = os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file: Any = (
        os.fdopen(descriptor, "rb", buffering=0) if not stat.S_ISDIR(os.fstat(descriptor).st_mode) else None
    )
    if file is None:
        os.close(descriptor)
        raise AudioError(name, "is a directory")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise AudioError(name, "is no regular file but a pipe, a socket or a device")
    return file


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Turn errors inside the block into an AudioError that names the file, so that commands can skip it."""
    try:
        yield
    except AudioError:
        raise
    except OSError as error:
        raise AudioError(path, error.strerror or str(error)) from error
    except MemoryError as error:
        raise AudioError(path, "needs more memory than there is") from error
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(path, _reason(error)) from error
    except ValueError as error:
        raise AudioError(path, str(error)) from error
    except Exception as error:
        raise AudioError(path, f"damaged: {type(error).__name__}: {error}") from error


def _reason(error: Exception) -> str:
    text = str(error).removeprefix("Error : ")
    text = text.rpartition(": ")[2] if text.startswith("Error opening ") else text
    return "is not a sound file that can be read" if "not recognised" in text else f"damaged: {text}"
