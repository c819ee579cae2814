"""Optimizers whose arithmetic is torchao's."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

EXTRA = 'pip install "stable-audio[quantize]"'


@functools.cache
def computed_by_torchao(cls: Any) -> type[Any]:
    """A class that has the arithmetic of torchao below that of `cls`.

    Raises:
        ImportError: torchao is not installed, or too old.
    """
    with importing("torchao.optim", needed_by=f"the optimizer '{cls.__name__}'"):
        import torchao.optim as torchao

        base = getattr(torchao, cls.torchao_name)
    return type(cls.__name__, (cls, base), {})


@contextmanager
def importing(package: str, *, needed_by: str) -> Iterator[None]:
    """Context that imports a package of torchao and takes what it needs from it.

    Raises:
        ImportError: torchao is not installed, or too old.
    """
    try:
        with _only_errors("torchao", "torch.utils._pytree"):  # which tell at import what a CPU lacks
            yield
    except (ImportError, AttributeError) as error:
        raise ImportError(f"{needed_by} needs torchao with {package}: {EXTRA}") from error


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
