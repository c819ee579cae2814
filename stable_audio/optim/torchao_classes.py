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
    try:
        with only_errors("torchao", "torch.utils._pytree"):  # which tell at import what a CPU lacks
            import torchao.optim as torchao

        base = getattr(torchao, cls.torchao_name)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"the optimizer '{cls.__name__}' needs torchao with torchao.optim: {EXTRA}"
        ) from error
    return type(cls.__name__, (cls, base), {})


@contextmanager
def only_errors(*loggers: str) -> Iterator[None]:
    """Context in which loggers tell errors only."""
    levels = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
