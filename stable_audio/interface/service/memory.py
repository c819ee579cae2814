"""Memory that a process uses."""

from __future__ import annotations

import mmap
from pathlib import Path

import torch


def memory_in_use(device: torch.device) -> dict[str, int]:
    """Bytes by kind: `resident` of the process; on a GPU also `allocated`, `reserved` and `total`."""
    memory = {"resident": _resident()}
    if device.type == "cuda":
        memory["allocated"] = torch.cuda.memory_allocated(device)
        memory["reserved"] = torch.cuda.memory_reserved(device)
        memory["total"] = torch.cuda.get_device_properties(device).total_memory
    return memory


def _resident() -> int:
    """Bytes of this process in memory; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * mmap.PAGESIZE
