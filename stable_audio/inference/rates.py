"""How many floating-point operations a device does per second: by its maker, or by a short measurement."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from stable_audio.nn.block import BlockInputs, TransformerBlock
from stable_audio.nn.rotary import RotaryEmbedding, rotary_dim

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


def measured_rate(
    device: torch.device,
    dtype: torch.dtype,
    *,
    size: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Operations per second of a square product of matrices, the best of a few; takes far below a second.

    Args:
        size: rows and columns; None: enough to keep a device of this type busy.
        clock: gives seconds.
    """
    size = size if size is not None else SIZES.get(device.type, LARGE)
    # No random numbers, which would move the generator of the caller.
    a = torch.linspace(-1, 1, size * size, device=device).view(size, size).to(dtype)
    return 2 * size**3 / best_seconds(lambda: a @ a, device, clock=clock)


def best_seconds(
    work: Callable[[], object],
    device: torch.device,
    *,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The shortest of some times of `work`, after one that does not count: what other programs took of the
    machine is in the longer ones."""
    times = []
    for _ in range(rounds + 1):
        _wait(device)
        began = clock()
        work()
        _wait(device)
        times.append(clock() - began)
    return max(min(times[1:]), 1e-9)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


TOKENS, WIDTH = 512, 512
"""Size of the piece of a network that `bfloat16_gain` times: the tokens of a batch of a few short clips. With
128, casts of weights and of their gradients take so much of a training step that it gains 1.6 times on a
processor with AMX, where steps of a whole model gain 2.5 times."""

TURNS = 4
"""Times that each type is timed for."""

QUICK = 384
"""Rows and columns of the product that is timed before, few enough for devices that emulate bfloat16."""


def bfloat16_gain(device: torch.device, *, training: bool) -> float:
    """How many times faster a device computes a piece of a network in bfloat16 than in float32.

    The piece is a block of a transformer, with attention to itself and to others, since some devices have
    fast products in bfloat16 and slow everything else. On a CPU one thread computes it, and the time of the
    processor is taken, so that other programs change the answer little: threads that wait for each other
    would be timed with them. Both types take turns, and the best time of each counts. Takes about a second,
    and a few milliseconds where products alone gain nothing.

    Args:
        training: time a training step by autocast; otherwise a forward pass with weights in bfloat16.
    """
    with _alone(device) as clock:
        gain = _gain_of_products(device, clock)
        return gain if gain < 1 else _gain_of_block(device, clock, training=training)


@contextmanager
def _alone(device: torch.device) -> Iterator[Callable[[], float]]:
    """One thread where a CPU computes, and the clock that says how long it did."""
    if device.type != "cpu":
        yield time.perf_counter
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield time.process_time
    finally:
        torch.set_num_threads(threads)


def _gain_of_products(device: torch.device, clock: Callable[[], float]) -> float:
    types = (torch.bfloat16, torch.float32)
    narrow, wide = (measured_rate(device, dtype, size=QUICK, clock=clock) for dtype in types)
    return narrow / wide


def _gain_of_block(device: torch.device, clock: Callable[[], float], *, training: bool) -> float:
    with torch.random.fork_rng(devices=[]):  # the layers draw their weights
        block = TransformerBlock(WIDTH, dim_context=WIDTH).to(device)
    x = torch.linspace(-1, 1, TOKENS * WIDTH, device=device).view(1, TOKENS, WIDTH)
    low = copy.deepcopy(block).to(torch.bfloat16)
    tables = RotaryEmbedding(rotary_dim(block.self_attn.dim_heads)).to(device)(TOKENS)

    def step(enabled: bool) -> None:
        with torch.enable_grad():
            with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
                loss = block(x, BlockInputs(context=x, rotary=tables)).float().square().mean()
            loss.backward()

    @torch.no_grad()
    def forward(network: nn.Module, values: Tensor) -> None:
        network(values, BlockInputs(context=values, rotary=tables))

    wide: Callable[[], object] = partial(step, False) if training else partial(forward, block, x)
    narrow: Callable[[], object] = partial(step, True) if training else partial(forward, low, x.bfloat16())
    seconds = partial(best_seconds, device=device, rounds=1, clock=clock)
    times = [(seconds(wide), seconds(narrow)) for _ in range(TURNS)]
    return min(first for first, _ in times) / min(second for _, second in times)
