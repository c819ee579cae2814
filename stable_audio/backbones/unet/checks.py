"""Whether the keywords of the U-Net fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stable_audio.nn.checks import check_counts

GROUPS = 32
"""Groups of group norms where none are given."""


def per_level(name: str, values: Sequence[bool], levels: int) -> list[bool]:
    """`values` as a list, one per level."""
    if len(values) != levels:
        raise ValueError(f"{name} needs one entry per level ({levels}), found {len(values)}")
    return list(values)


def attention_levels(
    attention: Sequence[bool] | None,
    resolutions: Sequence[int] | None,
    resolution: int | None,
    factors: Sequence[int],
    levels: int,
) -> list[bool]:
    """Which levels have self-attention, from either way to say so."""
    if attention is not None and resolutions is not None:
        raise ValueError("give attention or attention_resolutions, not both")
    if resolutions is None:
        return [False] * levels if attention is None else per_level("attention", attention, levels)
    if resolution is None:
        raise ValueError("attention_resolutions needs `resolution`, the length that it refers to")
    sizes = [resolution]
    for factor in factors:
        sizes.append(sizes[-1] // factor)
    unknown = sorted(set(resolutions) - set(sizes))
    if unknown:
        raise ValueError(f"attention_resolutions {unknown} are not among those of the levels, {sizes}")
    return [size in resolutions for size in sizes]


def check(
    *,
    dims: int,
    height: int | None,
    levels: int,
    groups: int | None,
    norm: str,
    widths: Sequence[int],
    factors: Sequence[int],
    blocks: Sequence[int],
    kernels: Mapping[str, int],
    downsample: tuple[str, int],
    upsample: tuple[str, int],
    skips: str,
    up_width: str,
    tokens: tuple[int, bool, int, bool],
) -> None:
    """Raise ValueError for the first thing that does not fit."""
    _check_lists(levels, factors, blocks)
    if min(widths) < 1:
        raise ValueError(f"channels and multipliers must be at least 1, found widths {list(widths)}")
    _check_groups(groups, norm, widths)
    _check_kernels(kernels, factors, downsample, upsample)
    if height is not None and dims != 2:
        raise ValueError(f"height is for dims 2, found dims {dims}")
    rate = 1
    for factor in factors:
        rate *= factor
    if height is not None and height % rate:
        raise ValueError(f"height {height} must be a multiple of the product of factors, {rate}")
    if skips == "block" and up_width == "next":
        raise ValueError("up_width 'next' needs skips 'level'")
    cross_dim, has_cross, prepend_dim, has_self = tokens
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


def _check_kernels(
    kernels: Mapping[str, int],
    factors: Sequence[int],
    downsample: tuple[str, int],
    upsample: tuple[str, int],
) -> None:
    for name, kernel in kernels.items():
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"{name} must be odd, found {kernel}")
    largest = max(factors, default=1)
    if downsample[0] == "conv" and downsample[1] < largest:
        raise ValueError(f"downsample_kernel must be at least the factor {largest}, found {downsample[1]}")
    if upsample[0] == "transposed" and upsample[1] < largest:
        raise ValueError(f"upsample_kernel must be at least the factor {largest}, found {upsample[1]}")
    if upsample[0] != "transposed" and upsample[1] % 2 == 0:
        raise ValueError(f"upsample_kernel must be odd for {upsample[0]}, found {upsample[1]}")
