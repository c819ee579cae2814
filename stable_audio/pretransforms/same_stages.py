"""Stages of SAME: learned tokens between segments, mixed by transformers within chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from stable_audio.nn.attention import AttentionOptions
from stable_audio.nn.checkpointing import set_gradient_checkpointing
from stable_audio.nn.feedforward import FeedForwardOptions
from stable_audio.nn.norms import NormOptions
from stable_audio.nn.precision import full_precision, widened
from stable_audio.nn.transformer import TransformerBlock, TransformerOptions
from stable_audio.pretransforms.conv import WNConv1d


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """Options of all stages of a coder.

    Attributes:
        sliding_window: [left, right] segments visible to attention; null = whole chunks.
        chunk_size: tokens of a chunk at the rate nearer to the audio: chunk_size / stride segments.
        chunk_midpoint_shift: the second half of the layers works on chunks shifted by half a chunk.
        checkpointing: recompute activations in training.
        conformer: a convolution module in the transformers.
        layer_scale: learned gains on the branches of the transformers.
        differential: differential attention in the transformers.
        feat_scale: gains on the mean over tokens of the output of attention and on the rest.
        ff_mult: inner features of the feed-forward layers, per feature.
        dim_heads: width of the heads.
        dyt: dynamic tanh instead of RMS norms.
        variable_stride: one learned token for all positions of a segment, instead of one each.
        mask_noise: std of noise added to the learned tokens in training.
        mapping_bias: biases in the convolution that changes the width.
        conv_mapping: that convolution has kernel 3 instead of 1.
        freeze_backbone: do not train the transformers.
        cross_attn: not published; must be false.
    """

    sliding_window: list[int] | None = None
    chunk_size: int = 128
    chunk_midpoint_shift: bool = False
    checkpointing: bool = False
    conformer: bool = False
    layer_scale: bool = False
    differential: bool = True
    variable_stride: bool = False
    feat_scale: bool = False
    mask_noise: float = 0.0
    ff_mult: float = 3
    mapping_bias: bool = True
    cross_attn: Literal[False] = False
    dyt: bool = True
    conv_mapping: bool = False
    freeze_backbone: bool = False
    dim_heads: int = 128

    def __post_init__(self) -> None:
        if self.cross_attn:
            raise ValueError(
                "cross_attn of same is not supported: how it works is not published; set it to false"
            )
        if self.sliding_window is not None and len(self.sliding_window) != 2:
            raise ValueError(f"sliding_window must be [left, right] or null, found {self.sliding_window}")

    def segments_per_chunk(self, stride: int) -> int:
        """Segments of a chunk: chunk_size in tokens at the rate nearer to the audio, `stride` per segment."""
        return self.chunk_size // stride

    def transformer(self, segment: int, *, sinusoidal: bool) -> TransformerOptions:
        """Options of the blocks of a stage whose segments have `segment` tokens."""
        window = None
        if self.sliding_window is not None:
            before, after = self.sliding_window
            window = before * segment, after * segment
        return TransformerOptions(
            add_rope=True,
            sliding_window=window,
            conformer=self.conformer,
            layer_scale=self.layer_scale,
            norm_type="dyt" if self.dyt else "rms_norm",
            norm_kwargs=NormOptions() if self.dyt else NormOptions(eps=1e-3),
            attn_kwargs=AttentionOptions(
                qk_norm="dyt" if self.dyt else "rms",
                qk_norm_eps=1e-3,
                differential=self.differential,
                feat_scale=self.feat_scale,
            ),
            ff_kwargs=FeedForwardOptions(mult=self.ff_mult, sinusoidal=sinusoidal),
        )


class SAMEStage(nn.Module):
    """Tokens in segments of `tokens_in`, each followed by `tokens_out` learned tokens that become the output.

    Args:
        channels_in: channels before the convolution that maps the width.
        channels_out: channels after it.
        map_first: whether the mapping precedes the transformers, which then have `channels_out` features;
            otherwise it follows them, and they have `channels_in`.
        sinusoidal: n, which turns on sin(pi x) in the feed-forward layers of the last blocks: block i of
            `depth` has it where depth - i < n, so that there are n - 1 of them. 0 for none.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        map_first: bool,
        tokens_in: int,
        tokens_out: int,
        depth: int,
        sinusoidal: int,
        options: StageOptions,
    ) -> None:
        super().__init__()
        dim = channels_out if map_first else channels_in
        heads = min(options.dim_heads, dim)
        if dim % heads:
            raise ValueError(f"same: width {dim} is no multiple of dim_heads={heads}")
        kernel = 3 if options.conv_mapping else 1
        self.mapping = WNConv1d(
            channels_in, channels_out, kernel, padding=kernel // 2, bias=options.mapping_bias
        )
        self.map_first = map_first
        self.tokens_in, self.tokens_out, self.options = tokens_in, tokens_out, options
        self.chunk = options.segments_per_chunk(max(tokens_in, tokens_out))
        tokens = 1 if options.variable_stride else tokens_out
        self.new_tokens = nn.Parameter(torch.randn(1, tokens, dim) * 1e-5)
        self.transformers = nn.ModuleList(
            TransformerBlock(
                dim,
                dim_heads=heads,
                options=options.transformer(tokens_in + tokens_out, sinusoidal=depth - i < sinusoidal),
            )
            for i in range(depth)
        )
        self.transformers.requires_grad_(not options.freeze_backbone)
        set_gradient_checkpointing(self.transformers, options.checkpointing)

    def forward(self, x: Tensor) -> Tensor:
        """(b channels_in n) -> (b channels_out n/tokens_in*tokens_out)."""
        x = self.mapping(x) if self.map_first else widened(x)
        padding = -x.shape[-1] % self.tokens_in
        x = nn.functional.pad(x, (0, padding)) if padding else x
        segments = x.mT.unflatten(1, (-1, self.tokens_in))
        learned = self._new_tokens(segments)
        mixed = self._mix(torch.cat([segments, learned], dim=2))
        x = mixed[:, :, self.tokens_in :].flatten(1, 2).mT
        return x if self.map_first else full_precision([self.mapping], x)

    def _new_tokens(self, segments: Tensor) -> Tensor:
        b, count, _, dim = segments.shape
        new = self.new_tokens.to(segments.dtype).expand(1, self.tokens_out, dim)
        new = new.expand(b, count, -1, -1)
        if self.training and self.options.mask_noise:
            new = new + self.options.mask_noise * torch.randn_like(new)
        return new

    def _mix(self, segments: Tensor) -> Tensor:
        """All transformers on (b segments tokens d), inside chunks unless there is a sliding window."""
        blocks = list(self.transformers)
        if self.options.sliding_window is not None:
            return self._run(blocks, segments)
        if not self.options.chunk_midpoint_shift:
            return self._in_chunks(blocks, segments)
        half = len(blocks) // 2
        segments = self._in_chunks(blocks[:half], segments)
        # Repeat the edges, so that the shifted chunks at both ends are complete.
        edge = min(self.chunk // 2, segments.shape[1])
        shifted = torch.cat([segments[:, :edge], segments, segments[:, -edge:]], dim=1)
        return self._in_chunks(blocks[half:], shifted)[:, edge : edge + segments.shape[1]]

    def _in_chunks(self, blocks: list[nn.Module], segments: Tensor) -> Tensor:
        b, count, chunk = segments.shape[0], segments.shape[1], self.chunk
        in_full_chunks = count // chunk * chunk
        outputs = []
        if in_full_chunks:
            folded = segments[:, :in_full_chunks].unflatten(1, (-1, chunk)).flatten(0, 1)
            outputs.append(self._run(blocks, folded).unflatten(0, (b, -1)).flatten(1, 2))
        if in_full_chunks < count:
            outputs.append(self._run(blocks, segments[:, in_full_chunks:]))
        return torch.cat(outputs, dim=1)

    def _run(self, blocks: list[nn.Module], segments: Tensor) -> Tensor:
        x = segments.flatten(1, 2)
        for block in blocks:
            x = block(x)
        return x.view_as(segments)
