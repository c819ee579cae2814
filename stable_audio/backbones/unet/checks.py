"""Check that the options of the U-Net fit together."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stable_audio.backbones.unet.options import GROUPS, BlockOptions, LevelOptions
from stable_audio.nn.checks import check_counts


def check(layout: LevelOptions, block: BlockOptions, height: int | None) -> None:
    """Raise ValueError for the first mismatch."""
    _check_lists(len(layout.multipliers), layout.rates, layout.counts)
    widths = [layout.channels, *layout.widths]
    if min(widths) < 1:
        raise ValueError(f"channels and multipliers must be at least 1, found widths {widths}")
    _check_groups(block.groups, block.norm, widths)
    _check_kernels(layout, block)
    if height is not None and layout.dims != 2:
        raise ValueError(f"height is for dims 2, found dims {layout.dims}")
    rate = math.prod(layout.rates)
    if height is not None and height % rate:
        raise ValueError(f"height {height} must be a multiple of the product of factors, {rate}")
    if layout.skips == "block" and layout.up_width == "next":
        raise ValueError("up_width 'next' needs skips 'level'")


def check_readers(*, cross_dim: int, has_cross: bool, prepend_dim: int, has_self: bool) -> None:
    """Raise ValueError if there are tokens that no level uses."""
    if cross_dim and not has_cross:
        raise ValueError(
            "cross_attn.dim or the mechanism 'cross_attention' is set, but no level has cross-attention: set "
            "cross_attention"
        )
    if prepend_dim and not has_self:
        raise ValueError("prepend.dim is set, but no level has self-attention: set attention")


def _check_groups(groups: int | None, norm: str, widths: Sequence[int]) -> None:
    if norm == "rms":
        if groups is not None:
            raise ValueError(f"norm 'rms' has no groups: leave out groups {groups}")
        return
    count = GROUPS if groups is None else groups
    wrong = [w for w in widths if w % count]
    if wrong:
        raise ValueError(f"groups {count} must divide the channels of every level, found {wrong}")


def _check_lists(levels: int, factors: Sequence[int], blocks: Sequence[int]) -> None:
    if levels < 1:
        raise ValueError("multipliers needs at least one entry")
    if len(factors) != levels - 1 or any(f < 1 for f in factors):
        raise ValueError(f"factors needs {levels - 1} entries of at least 1, found {list(factors)}")
    check_counts(blocks=max(blocks, default=0))
    if len(blocks) != levels or any(b < 1 for b in blocks):
        raise ValueError(f"blocks needs {levels} entries of at least 1, found {list(blocks)}")


def _check_kernels(layout: LevelOptions, block: BlockOptions) -> None:
    kernels = {
        "first_kernel": layout.first_kernel,
        "last_kernel": layout.last_kernel,
        "kernel_size": block.kernel_size,
    }
    for name, kernel in kernels.items():
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"{name} must be odd, found {kernel}")
    largest = max(layout.rates, default=1)
    down, up = layout.downsample_kernel, layout.upsample_kernel
    if layout.downsample == "conv" and down < largest:
        raise ValueError(f"downsample_kernel must be at least the factor {largest}, found {down}")
    if layout.upsample == "transposed" and up < largest:
        raise ValueError(f"upsample_kernel must be at least the factor {largest}, found {up}")
    if layout.upsample != "transposed" and up % 2 == 0:
        raise ValueError(f"upsample_kernel must be odd for {layout.upsample}, found {up}")
