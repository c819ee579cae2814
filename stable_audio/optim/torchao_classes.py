"""Optimizers whose arithmetic is torchao's."""

from __future__ import annotations

import functools
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

_NUMBERS = 256
"""Numbers of an average that is made for its codes alone: a block of every kind of average."""

EXTRA = 'pip install "stable-audio[quantize]"'


@functools.cache
def computed_by_torchao(cls: Any) -> type[Any]:
    """A class that has the arithmetic of torchao below that of `cls`.

    Raises:
        ImportError: torchao is not installed, or too old.
    """
    # torchao computes the values that codes stand for once in a process. If a plan of memory were the first
    # to ask, whose tensors have no values, they would be wrong for the whole run.
    with (
        _disable_current_modes(),
        importing("torchao.optim", needed_by=f"the optimizer '{cls.__name__}'"),
    ):
        import torchao.optim as torchao

        base = getattr(torchao, cls.torchao_name)
        if cls.has_blocks:
            for signed in (True, False):
                base._subclass_zeros(torch.empty(_NUMBERS), signed, _NUMBERS)
    return type(cls.__name__, (cls, base), {})


def require_torchao(kind: Any) -> None:
    """Raise ImportError, with the extra to install, where the optimizer cannot be computed."""
    computed_by_torchao(kind)


OLDEST_COMPILED = (7, 0)
"""Compute capability of the oldest GPUs that Triton compiles for."""


def is_quick_on(device: torch.device, kind: Any) -> bool:
    """Whether an optimizer of few bits costs hardly any time on a device.

    Its step has to be compiled there: on a GPU, with torchao, Triton, and the C compiler that Triton calls.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < OLDEST_COMPILED:
        return False
    compilers = (os.environ.get("CC", "cc"), "gcc", "clang")
    if find_spec("triton") is None or not any(map(shutil.which, compilers)):
        return False
    try:
        require_torchao(kind)
    except ImportError:
        return False
    return True


@contextmanager
def importing(package: str, *, needed_by: str) -> Iterator[None]:
    """Context that imports a package of torchao and takes what it needs from it.

    Raises:
        ImportError: torchao is not installed, or of a version that lacks the package or that this torch lacks
            something for.
    """
    try:
        with _only_errors("torchao", "torch.utils._pytree"):  # which tell at import what a CPU lacks
            yield
    except (ImportError, AttributeError) as error:
        if find_spec("torchao") is None:
            raise ImportError(f"{needed_by} needs torchao: {EXTRA}") from error
        raise ImportError(
            f"{needed_by} needs {package}, which torchao {version('torchao')} does not offer with torch "
            f"{torch.__version__} ({error}); install a version of torchao that was made for this torch"
        ) from error


@contextmanager
def _only_errors(*loggers: str) -> Iterator[None]:
    """Context in which loggers tell errors only."""
    levels = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
