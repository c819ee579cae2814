"""On which device of this machine to compute."""

from __future__ import annotations

import torch

AUTO = "auto"


def best_device(asked: str = AUTO, *, rank: int | None = None) -> torch.device:
    """The device that `asked` names; `auto`: cuda, mps or cpu, the first that is there.

    Args:
        rank: of this process among those of this machine, which share its GPUs evenly where `asked` gives no
            number; None: the only one.

    Raises:
        ValueError: there is no such device here.
    """
    device = _present(asked) if asked != AUTO else _first_present()
    if device.type == "cuda" and device.index is None and rank is not None:
        return torch.device("cuda", rank % torch.cuda.device_count())
    return device


def _first_present() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _present(asked: str) -> torch.device:
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise ValueError(f"device: 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps', found '{asked}'") from error
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= count or (device.type == "mps" and not torch.backends.mps.is_available()):
        raise ValueError(f"device {asked}: there is no such device here; 'auto' is the best there is")
    return device
