"""Eval mode and random state, put back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode, without touching the global random state; each submodule gets its own mode back.

    `module.train()` at the end would wake frozen encoders up.
    """
    modes = [(m, m.training) for m in module.modules()]
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            module.eval()
            yield
        finally:
            for member, mode in modes:
                member.training = mode
