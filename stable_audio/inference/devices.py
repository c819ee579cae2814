"""The choice of a device of this machine."""

from __future__ import annotations

import torch

AUTO = "auto"


def best_device(name: str = AUTO, *, rank: int | None = None) -> torch.device:
    """The device called `name`.

    Args:
        name: "cpu", "cuda", "cuda:1" or "mps"; "auto": the first of cuda, mps and cpu that this machine has.
        rank: number of this process among those of this machine, which share its GPUs evenly if `name` has no
            number; None: the only process.

    Raises:
        ValueError: there is no such device here.
    """
    device = _present(name) if name != AUTO else _first_present()
    if device.type == "cuda" and device.index is None and rank is not None:
        return torch.device("cuda", rank % torch.cuda.device_count())
    return device


def _first_present() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _present(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device: 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps', found '{name}'") from error
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= count or (device.type == "mps" and not torch.backends.mps.is_available()):
        raise ValueError(f"device {name}: this machine has no such device; 'auto' takes the best one")
    return device
