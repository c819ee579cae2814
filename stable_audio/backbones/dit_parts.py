"""Parts of the DiT: its transformer by name, and single layers."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from stable_audio.backbones.dit_options import DiTOptions
from stable_audio.backbones.x_transformers import build_x_transformer
from stable_audio.nn.embeddings import ProjectionMLP
from stable_audio.nn.transformer import ContinuousTransformer


def _build_continuous(
    options: DiTOptions, *, dim_in: int, dim_out: int, dim_context: int | None, final_cross_attn_ix: int
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
