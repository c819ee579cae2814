"""Parts of the DiT: its transformer by name, and single layers."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.backbones.dit_options import DiTOptions
from stable_audio.backbones.x_transformers import build_x_transformer
from stable_audio.nn.embeddings import ProjectionMLP
from stable_audio.nn.local import LocalWidths
from stable_audio.nn.packed import mark_dynamic
from stable_audio.nn.transformer import ContinuousTransformer
from stable_audio.types import Conditioning, Slot


def _build_continuous(
    options: DiTOptions,
    *,
    dim_in: int,
    dim_out: int,
    dim_context: int | None,
    final_cross_attn_ix: int,
    local: LocalWidths,
) -> nn.Module:
    extra = {"attn_layers_kwargs": options.attn_layers_kwargs, "wrapper_kwargs": options.wrapper_kwargs}
    if any(extra.values()):
        present = [k for k, v in extra.items() if v]
        raise ValueError(f"{present} apply to transformer_type 'x-transformers' only; remove them")
    return ContinuousTransformer(
        dim_in=dim_in,
        dim_out=dim_out,
        dim=options.embed_dim,
        depth=options.depth,
        num_heads=options.num_heads,
        dim_context=dim_context,
        final_cross_attn_ix=final_cross_attn_ix,
        modulated=options.modulated,
        local=local,
        options=options.layers,
    )


TRANSFORMERS: dict[str, Callable[..., nn.Module]] = {
    "continuous_transformer": _build_continuous,
    "x-transformers": build_x_transformer,
}


def zero_conv(channels: int) -> nn.Conv1d:
    """A 1x1 convolution that starts at zero, for residual branches."""
    conv = nn.Conv1d(channels, channels, 1, bias=False)
    nn.init.zeros_(conv.weight)
    return conv


def projection(dim_in: int, dim_out: int) -> ProjectionMLP | None:
    """The projection of a slot's conditioning; None if the slot has width 0."""
    return ProjectionMLP(dim_in, dim_out, bias=False) if dim_in else None


def at_length(frames: Tensor, length: int) -> Tensor:
    """(b c n) resized to `length` frames, nearest neighbour."""
    if frames.shape[-1] == length:
        return frames
    return F.interpolate(frames.float(), size=length, mode="nearest")


def patch(x: Tensor, size: int) -> Tensor:
    """(b c (l p)) -> (b l (c p))."""
    if size == 1:
        return x.transpose(1, 2)
    return x.unflatten(-1, (-1, size)).transpose(1, 2).flatten(2)


def unpatch(tokens: Tensor, size: int) -> Tensor:
    """(b l (c p)) -> (b c (l p))."""
    if size == 1:
        return tokens.transpose(1, 2)
    return tokens.unflatten(-1, (-1, size)).transpose(1, 2).flatten(2)


def token_mask(mask: Tensor, x: Tensor, patch_size: int) -> Tensor:
    """A padding mask (b n) of the frames of x (b c n) as one of tokens; a patch with a real frame is real.

    Raises:
        ValueError: the mask has another shape.
    """
    if mask.shape != (x.shape[0], x.shape[-1]):
        raise ValueError(
            f"the padding mask has shape {tuple(mask.shape)}, but x needs {(x.shape[0], x.shape[-1])}: items "
            "and frames"
        )
    return mask.bool() if patch_size == 1 else mask.bool().unflatten(-1, (-1, patch_size)).any(-1)


def check_whole_frames(cond: Conditioning, slots: frozenset[Slot], length: int) -> None:
    """Raise ValueError if packed clips of `length` frames come with conditioning whose padding is unknown."""
    frames = {s.value: cond.slot(s) for s in slots if s.has_frames} | dict(cond.modular_local or {})
    for name, value in frames.items():
        if value is not None and value.shape[-1] not in (1, length):
            raise ValueError(
                f"{name} has {value.shape[-1]} frames, but packed clips need it as long as x, {length}: its "
                "frames could not be told from its padding"
            )
    if cond.padding_mask is not None:
        raise ValueError("packed clips have no padding, but a padding mask came with them; leave it out")


def expect_other_sizes(x: Tensor, t: Tensor, cond: Conditioning) -> None:
    """Let the compiler expect other numbers of items and frames in later calls."""
    mark_dynamic([x, t, *(v for v in (cond.input_concat, cond.local_add) if v is not None)], dims=(0, 2))
    mark_dynamic((cond.modular_local or {}).values(), dims=(0, 2))
    tokens = (cond.cross_attn, cond.cross_attn_mask, cond.global_cond, cond.prepend)
    mark_dynamic([v for v in tokens if v is not None], dims=(0,))
