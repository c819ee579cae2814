"""Which kernels compute the attention of clips that share a row, and why."""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.autograd import forward_ad

from stable_audio.nn.flex import FlexRow, compiled_flex
from stable_audio.nn.row_attention import EqualRuns, PaddedGroups, Places, RowAttention
from stable_audio.nn.varlen import VarlenKernel, VarlenRow, flash_varlen, torch_varlen


@dataclass(frozen=True)
class Available:
    """What the installed packages and the device offer.

    Attributes:
        varlen: PyTorch's kernel for sequences of different length.
        varlen_windows: it takes sliding windows.
        flash: the flash-attn package.
        flex: FlexAttention can be compiled, for which Triton is needed.
        ampere: the GPU has the instructions that these kernels need: NVIDIA's compute capability 8.0.
    """

    varlen: bool = False
    varlen_windows: bool = False
    flash: bool = False
    flex: bool = False
    ampere: bool = False


@functools.cache
def available(device: torch.device) -> Available:
    """What there is for a device."""
    if device.type != "cuda" or torch.version.hip is not None:
        return Available()
    varlen, windows = importlib.util.find_spec("torch.nn.attention.varlen") is not None, False
    if varlen:
        from torch.nn.attention.varlen import varlen_attn

        windows = "window_size" in inspect.signature(varlen_attn).parameters
    return Available(
        varlen=varlen,
        varlen_windows=windows,
        flash=importlib.util.find_spec("flash_attn") is not None,
        flex=importlib.util.find_spec("triton") is not None,
        ampere=torch.cuda.get_device_capability(device) >= (8, 0),
    )


@dataclass(frozen=True, kw_only=True)
class RowNeeds:
    """What the attention of a row is to compute.

    Attributes:
        device: where.
        dtype: type of queries, keys and values.
        dim_heads: features of a head.
        causal: of self-attention.
        window: of self-attention.
        prefers_flash: `attn_kwargs.backend` is "flash".
        compiled: the network is compiled.
    """

    device: torch.device
    dtype: torch.dtype
    dim_heads: int
    causal: bool = False
    window: tuple[int, int] | None = None
    prefers_flash: bool = False
    compiled: bool = False


class RowKernel(NamedTuple):
    """How the attention of a row is computed.

    Attributes:
        name: in words.
        why: the reason, in words.
        make: (tokens of each clip, longest first; their places) -> the attention of their row.
    """

    name: str
    why: str
    make: Callable[[Sequence[int], Places], RowAttention]


def row_kernel(need: RowNeeds, have: Available) -> RowKernel:
    """The kernel for a row: one call for all clips where there is one that can, else few calls."""
    if forward_ad._current_level >= 0:
        return _by_clips(need, "the fused kernels have no derivative in forward mode")
    if need.device.type != "cuda":
        return _by_clips(need, f"there is no kernel for clips of different length on {need.device.type}")
    if need.dtype not in (torch.float16, torch.bfloat16):
        return _by_clips(need, f"the kernels for clips of different length do not take {need.dtype}")
    if not have.ampere:
        return _by_clips(need, "the kernels for clips of different length need compute capability 8.0")
    if need.dim_heads % 8 or need.dim_heads > 256:
        return _by_clips(need, f"these kernels take heads of 8, 16, ... 256 features, not {need.dim_heads}")
    if have.flash and need.prefers_flash:
        return _varlen("flash-attn", 'attn_kwargs.backend is "flash"', flash_varlen)
    if have.varlen and (have.varlen_windows or need.window is None):
        return _varlen("varlen", "PyTorch has it", lambda: torch_varlen(have.varlen_windows))
    lacking = "PyTorch's kernel takes no windows" if have.varlen else "PyTorch has no such kernel before 2.10"
    if have.flash:
        return _varlen("flash-attn", f"{lacking}; flash-attn is installed", flash_varlen)
    if need.compiled or not have.flex or need.dim_heads < 16:
        other = "FlexAttention is made for each length" if need.compiled else "FlexAttention cannot serve"
        return _by_clips(need, f"{lacking}, flash-attn is not installed, and {other}")

    def flex(lengths: Sequence[int], places: Places) -> RowAttention:
        return FlexRow.of(lengths, places, causal=need.causal, window=need.window, kernel=compiled_flex())

    return RowKernel("FlexAttention", f"{lacking}, and flash-attn is not installed", flex)


def _varlen(name: str, why: str, kernel: Callable[[], VarlenKernel]) -> RowKernel:
    return RowKernel(name, why, lambda lengths, places: VarlenRow.of(lengths, places, kernel()))


def _by_clips(need: RowNeeds, why: str) -> RowKernel:
    """Calls for whole clips. On a CPU a call costs little, and padding more than it saves; on a GPU it is the
    other way round. A compiled network takes a fixed number of calls only."""
    if need.compiled:
        return RowKernel("padded groups", f"{why}; the network is compiled", PaddedGroups.of)
    if need.device.type == "cuda":
        return RowKernel("padded groups", f"{why}; on a GPU few calls cost less", PaddedGroups.of)
    return RowKernel("runs of equal length", f"{why}; here padding costs more than calls", EqualRuns.of)
