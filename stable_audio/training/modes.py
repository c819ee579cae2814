"""Eval mode for demos and validation, without effect on the random state of the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from stable_audio.nn.modes import eval_mode


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Set eval mode, and restore each submodule's mode and the global random state at the end."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices), eval_mode(module):
        yield
