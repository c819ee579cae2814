"""What libraries take of a device beside the tensors of this program, and how much memory a device has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

GPU_RESERVE = 3 * 2**28
"""768 MiB: the context of CUDA and its kernels (300 to 500 MiB), work space of cuBLAS and cuDNN, and gaps
between the blocks of the allocator. `torch.cuda.max_memory_allocated` does not count it. An estimate."""

CPU_RESERVE = 2**29
"""512 MiB: the interpreter with torch and Lightning, which took 457 MiB with torch 2.13 on Linux."""


TIGHTER = 0.9
"""Share of a plan beyond the reserve that is looked for where the plan said that it fits."""


def reserve_of(device: str) -> int:
    """Bytes that libraries take of a device of this type."""
    return CPU_RESERVE if device == "cpu" else GPU_RESERVE


def memory_of(device: str) -> int | None:
    """Bytes of memory of the first device of this type in this machine; None if that cannot be known."""
    if device == "cuda" and torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    if device == "cpu" and hasattr(os, "sysconf"):
        return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_limits()])
    return None


def room_after_failure(total: int, reserve: int, device_bytes: int | None) -> int:
    """Bytes that a change has to fit where what was planned did not, as has been seen: others had the rest.

    Args:
        total: what was planned in all.
        reserve: what libraries take of it.
        device_bytes: memory of the device; None: not known.
    """
    most = reserve + round(TIGHTER * (total - reserve))
    return most if device_bytes is None else min(device_bytes, most)


def _limits() -> Iterator[int]:
    """What this process may take of the machine's memory, by `ulimit -v` and by its control group."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        yield limit
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return
    if text.isdecimal():
        yield int(text)


def readable_size(count: float) -> str:
    """Bytes with a unit, in powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
