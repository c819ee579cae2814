"""A DiT and its sampling as one writes them straight away: every step computes all that it needs anew.

The weights are those of `stable_audio.backbones.DiT`, under the same names, and so is the result.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.backbones import DiT


class PlainDiT(nn.Module):
    """The network of a `DiT`: cross-attention, a global vector, local tokens."""

    def __init__(self, like: DiT) -> None:
        super().__init__()
        options, layers = like.options, like.options.layers
        self.dim, self.heads, self.modulated = options.embed_dim, options.num_heads, options.modulated
        self.memory = layers.num_memory_tokens
        self.timestep_features = like.timestep_features
        for name, child in like.named_children():
            if name != "transformer":
                self.add_module(name, child)
        inner = like.transformer
        self.project_in, self.project_out = inner.project_in, inner.project_out
        self.memory_tokens, self.modulation = inner.memory_tokens, inner.global_cond_embedder
        self.blocks = nn.ModuleList(PlainBlock(block, self.heads) for block in inner.layers)

    def forward(
        self, x: Tensor, t: Tensor, text: Tensor | None, vector: Tensor | None, local: Tensor | None
    ) -> Tensor:
        """x (b c n), t (b,), text (b m d), vector (b d), local (b c n) -> (b c n)."""
        dtype = self.project_in.weight.dtype
        text = None if text is None else self.to_cond_embed(text.to(dtype))
        time = self.to_timestep_embed(self.timestep_features(t).to(dtype))
        vector = time if vector is None else time + self.to_global_embed(vector.to(dtype))
        x = x.to(dtype)
        x = x + self.preprocess_conv(x)
        tokens = self.project_in(x.transpose(1, 2))
        frames = tokens.shape[1]
        local = None if local is None else local.to(dtype).transpose(1, 2)
        before = [] if self.modulated else [vector[:, None]]
        if self.memory:
            before = [self.memory_tokens.expand(len(x), -1, -1), *before]
        tokens = torch.cat([*before, tokens], dim=1)
        modulation = self.modulation(vector) if self.modulated else None
        for block in self.blocks:
            tokens = block(tokens, text, modulation, local)
        out = self.project_out(tokens[:, -frames:]).transpose(1, 2)
        return out + self.postprocess_conv(out)


class PlainBlock(nn.Module):
    """A block: self-attention, cross-attention, local tokens, feed-forward."""

    def __init__(self, like: nn.Module, heads: int) -> None:
        super().__init__()
        self.heads, self.scale_shift_gate = heads, like.to_scale_shift_gate
        for name, child in like.named_children():
            self.add_module(name, child)

    def forward(
        self, x: Tensor, text: Tensor | None, modulation: Tensor | None, local: Tensor | None
    ) -> Tensor:
        scale = shift = gate = scale_ff = shift_ff = gate_ff = None
        if modulation is not None:
            parts = (self.scale_shift_gate + modulation)[:, None].chunk(6, dim=-1)
            scale, shift, gate, scale_ff, shift_ff, gate_ff = parts
        h = self.pre_norm(x)
        h = h if scale is None else h * (1 + scale) + shift
        h = self._self_attention(h)
        x = x + (h if gate is None else h * torch.sigmoid(1 - gate))
        if text is not None and self.cross_attn is not None:
            x = x + self._cross_attention(self.cross_attend_norm(x), text)
        if local is not None:
            embedded = self.to_local_embed(local)
            x = torch.cat([x[:, : -local.shape[1]], x[:, -local.shape[1] :] + embedded], dim=1)
        h = self.ff_norm(x)
        h = h if scale_ff is None else h * (1 + scale_ff) + shift_ff
        value, gated = self.ff.ff[0].proj(h).chunk(2, dim=-1)
        h = self.ff.ff[2](value * F.silu(gated))
        return x + (h if gate_ff is None else h * torch.sigmoid(1 - gate_ff))

    def _self_attention(self, x: Tensor) -> Tensor:
        layer = self.self_attn
        q, k, v, *second = _heads(layer.to_qkv(x), layer.to_qkv.out_features // x.shape[-1], self.heads)
        q, k = layer.q_norm(q), layer.k_norm(k)
        out = F.scaled_dot_product_attention(rotate(q), rotate(k), v)
        if second:
            q, k = layer.q_norm(second[0]), layer.k_norm(second[1])
            out = out - F.scaled_dot_product_attention(rotate(q), rotate(k), v)
        return layer.to_out(_joined(out))

    def _cross_attention(self, x: Tensor, text: Tensor) -> Tensor:
        layer = self.cross_attn
        q, *q2 = _heads(layer.to_q(x), layer.to_q.out_features // x.shape[-1], self.heads)
        heads = text.shape[-1] // q.shape[-1]
        keys = _heads(layer.to_kv(text), layer.to_kv.out_features // text.shape[-1], heads)
        *k, v = (part.repeat_interleave(self.heads // heads, dim=1) for part in keys)
        out = F.scaled_dot_product_attention(layer.q_norm(q), layer.k_norm(k[0]), v)
        if q2:
            out = out - F.scaled_dot_product_attention(layer.q_norm(q2[0]), layer.k_norm(k[1]), v)
        return layer.to_out(_joined(out))


def _heads(x: Tensor, parts: int, heads: int) -> list[Tensor]:
    """(b n (parts h d)) -> parts x (b h n d)."""
    return [part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in x.chunk(parts, dim=-1)]


def _joined(x: Tensor) -> Tensor:
    """(b h n d) -> (b n (h d))."""
    return x.transpose(1, 2).flatten(2)


def rotate(x: Tensor) -> Tensor:
    """Rotary embedding (Su et al. 2021) of half of the channels of each head of x (b h n d), at least 32."""
    width = min(max(x.shape[-1] // 2, 32), x.shape[-1])
    frequencies = 10_000.0 ** -(torch.arange(0, width, 2, device=x.device).float() / width)
    angles = torch.arange(x.shape[2], device=x.device).float()[:, None] * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    turned, rest = x[..., :width].float(), x[..., width:]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()
    return torch.cat([turned.to(x.dtype), rest], dim=-1)


def plain_sample(
    model: PlainDiT,
    x: Tensor,
    levels: Sequence[float],
    *,
    text: Tensor | None,
    vector: Tensor | None = None,
    local: Tensor | None = None,
    cfg_scale: float = 1.0,
) -> Tensor:
    """Euler steps of a rectified flow from noise x (b c n) at levels[0] = 1 to 0, with guidance."""
    for now, after in itertools.pairwise(levels):
        t = torch.full((len(x),), now, device=x.device)
        if cfg_scale == 1 or text is None:
            velocity = model(x, t, text, vector, local).float()
        else:
            both = [None if v is None else torch.cat([v, v]) for v in (x, t, vector, local)]
            texts = torch.cat([text, torch.zeros_like(text)])
            out = model(both[0], both[1], texts, both[2], both[3]).float()
            cond, uncond = out.chunk(2)
            velocity = uncond + cfg_scale * (cond - uncond)
        x = x + (after - now) * velocity
    return x
