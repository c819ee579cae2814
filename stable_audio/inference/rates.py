"""How many floating-point operations a device does per second: by its maker, or by a short measurement."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

CARDS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}
"""Part of a card's name -> operations per second of dense products in bfloat16 or float16 that are summed in
float32, from NVIDIA's data sheets of these cards (nvidia.com, "Data Sheet"; RTX 4090: "Ada GPU Architecture"
white paper, appendix A)."""

SIZES = {"cpu": 512}
"""Type of device -> rows and columns of the products that are timed; large enough to be busy with."""

LARGE = 4096
ROUNDS = 5


def peak_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second that products of matrices can reach: from the card's data sheet if it is listed,
    else measured."""
    return data_sheet_rate(device, dtype) or measured_rate(device, dtype)


def data_sheet_rate(device: torch.device, dtype: torch.dtype) -> float | None:
    """Operations per second by the maker; None for other types than 16 bits, and for devices not listed."""
    if device.type != "cuda" or dtype.itemsize != 2:
        return None
    name = torch.cuda.get_device_name(device)
    return next((rate for part, rate in CARDS.items() if part in name), None)


def measured_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a square product of matrices, the best of a few; takes far below a second."""
    size = SIZES.get(device.type, LARGE)
    # No random numbers, which would move the generator of the caller.
    a = torch.linspace(-1, 1, size * size, device=device).view(size, size).to(dtype)
    return 2 * size**3 / best_seconds(lambda: a @ a, device)


def best_seconds(work: Callable[[], object], device: torch.device, *, rounds: int = ROUNDS) -> float:
    """The shortest of some times of `work`, after one that does not count: what other programs took of the
    machine is in the longer ones."""
    times = []
    for _ in range(rounds + 1):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - began)
    return max(min(times[1:]), 1e-9)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
