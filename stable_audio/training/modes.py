"""Eval mode and random state, put back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from stable_audio.nn.modes import eval_mode


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode, without touching the global random state; each submodule gets its own mode back."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices), eval_mode(module):
        yield
