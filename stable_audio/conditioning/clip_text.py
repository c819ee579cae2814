"""CLIP's text transformer (Radford et al. 2021, section 2.4), trained with the backbone or pretrained.

At its default size it has the 123,060,480 parameters of the published text encoder, and its parameter
names below `encoder` are those of Hugging Face's CLIPTextModel, so its weights load unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.conditioning.base import Conditioner, Layout
from stable_audio.conditioning.pretrained.clip import clip_weights
from stable_audio.conditioning.pretrained.loading import on_meta, parameters_of
from stable_audio.conditioning.pretrained.network import LazyNetwork
from stable_audio.conditioning.pretrained.source import NetworkSource
from stable_audio.conditioning.pretrained.tokens import TextTokens
from stable_audio.conditioning.tokenizers import ByteTokenizer, Tokenizer
from stable_audio.conditioning.values import TextValue
from stable_audio.nn.precision import parameter_dtype
from stable_audio.nn.transfer import to_device


class ClipTextConditioner(Conditioner):
    """Prompts -> token features or one pooled vector.

    Args:
        width: width of the transformer.
        layers: number of transformer layers.
        heads: attention heads per layer.
        max_length: tokens per prompt; longer prompts are cut.
        vocab_size: rows of the token embedding.
        tokenizer: folder or hub id of a tokenizer whose ids fit `vocab_size` (extra `[text]`); None: bytes,
            which need no download.
        pooled: return the feature at the end token, (b 1 d), for the global slot, instead of all tokens,
            padded with zeros to `max_length`.
        enable_grad: train the encoder; False freezes it.
        weights: folder or hub id of a CLIP saved by transformers to start from; its tokenizer is the default
            then. Such an encoder is loaded at first use and is in no checkpoint while it is frozen.
        project_out: add a linear output layer even when `width` equals the output width.
    """

    def __init__(
        self,
        *,
        output_dim: int,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        max_length: int = 77,
        vocab_size: int = 49_408,
        tokenizer: str | None = None,
        pooled: bool = False,
        enable_grad: bool = True,
        project_out: bool = False,
        weights: str | None = None,
    ) -> None:
        super().__init__(dim=width, output_dim=output_dim, project_out=project_out)
        self.max_length, self.pooled, self.enable_grad = max_length, pooled, enable_grad
        tokenizer = weights if tokenizer is None else tokenizer
        self.tokens = (
            None
            if tokenizer is None
            else TextTokens(source=NetworkSource(tokenizer, "tokenizer"), max_length=max_length)
        )
        self.tokenizer: Tokenizer = (
            ByteTokenizer(vocab_size=vocab_size, max_length=max_length)
            if self.tokens is None
            else self.tokens.trimmed
        )
        sizes = {"width": width, "layers": layers, "heads": heads, "vocab_size": vocab_size}
        build = partial(ClipTextTransformer, max_length=max_length, **sizes)
        self.network: LazyNetwork | None = None
        if weights is None:
            self.encoder = build()
        else:
            source = NetworkSource(weights, "weights")
            load = partial(_with_weights, build, source, sizes, max_length)
            if enable_grad:
                self.encoder = load()
            else:
                self.network = LazyNetwork(
                    load=load,
                    identity=lambda: (source.identity("clip_text"), max_length),
                    count=partial(parameters_of, build),
                )
        if self.network is None:
            self.encoder.requires_grad_(enable_grad)

    def text_tokens(self) -> TextTokens | None:
        return self.tokens

    def followers(self) -> Sequence[nn.Module]:
        return () if self.network is None or self.network.module is None else (self.network.module,)

    def follow(self, fn: Callable[[Tensor], Tensor]) -> None:
        if self.network is not None:
            self.network.move(fn)

    def frozen_networks(self) -> Sequence[LazyNetwork]:
        return () if self.network is None else (self.network,)

    @property
    def layout(self) -> Layout:
        return "vector" if self.pooled else "tokens"

    def value_rule(self) -> TextValue:
        return TextValue()

    def forward(self, values: list[Any], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """b prompts -> (b max_length d) with padding zeroed and its mask, or (b 1 d) when pooled."""
        encoder = self.encoder if self.network is None else self.network.on(device)
        ids, mask = self.tokenizer([v if isinstance(v, str) else str(v) for v in values])
        ids, mask = to_device(ids, device), to_device(mask, device)
        with torch.set_grad_enabled(self.enable_grad and torch.is_grad_enabled()):
            hidden = encoder(ids)
        if self.network is not None:  # it keeps its type when the model changes its own
            hidden = hidden.to(parameter_dtype(self.proj_out))
        if self.pooled:
            last = mask.sum(dim=1) - 1
            return self.proj_out(hidden[torch.arange(len(ids), device=ids.device), last]).unsqueeze(1), mask[
                :, :1
            ]
        # Causal attention never reads the padding, so only the outputs there have to be cleared.
        tokens = self.proj_out(hidden) * mask.unsqueeze(-1)
        padding = self.max_length - tokens.shape[1]
        return F.pad(tokens, (0, 0, 0, padding)), F.pad(mask, (0, padding))


def _with_weights(
    build: Callable[[], ClipTextTransformer], source: NetworkSource, sizes: Mapping[str, int], max_length: int
) -> ClipTextTransformer:
    with torch.random.fork_rng(devices=[]):  # the random weights are replaced
        network = build()
    if not on_meta():
        network.load_state_dict(clip_weights(source, sizes, max_length))
    return network


class ClipTextTransformer(nn.Module):
    """Token and position embeddings, pre-norm causal layers, final norm: ids (b l) -> (b l d)."""

    def __init__(self, *, width: int, layers: int, heads: int, max_length: int, vocab_size: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        if max_length < 3:
            raise ValueError(f"max_length is {max_length}; a prompt needs at least 3 tokens")
        self.embeddings = ClipTextEmbeddings(width=width, max_length=max_length, vocab_size=vocab_size)
        self.encoder = ClipTextLayers(width=width, layers=layers, heads=heads)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        return self.final_layer_norm(self.encoder(self.embeddings(ids)))


class ClipTextEmbeddings(nn.Module):
    """ids (b l) -> token plus position embedding (b l d)."""

    def __init__(self, *, width: int, max_length: int, vocab_size: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.position_embedding = nn.Embedding(max_length, width)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding.weight, std=0.01)

    def forward(self, ids: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[1], device=ids.device)
        return self.token_embedding(ids) + self.position_embedding(positions)


class ClipTextLayers(nn.Module):
    """The stack of layers; its attribute `layers` is part of the parameter names."""

    def __init__(self, *, width: int, layers: int, heads: int) -> None:
        super().__init__()
        stack = [ClipTextLayer(width=width, heads=heads, depth=layers) for _ in range(layers)]
        self.layers = nn.ModuleList(stack)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class ClipTextLayer(nn.Module):
    """Pre-norm causal self-attention, then a QuickGELU feed-forward of four times the width."""

    def __init__(self, *, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(width)
        self.self_attn = ClipTextAttention(width=width, heads=heads, depth=depth)
        self.layer_norm2 = nn.LayerNorm(width)
        self.mlp = ClipTextFeedForward(width=width, depth=depth)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class ClipTextAttention(nn.Module):
    """Causal self-attention. Initialised as in CLIP: output weights shrink with the number of layers."""

    def __init__(self, *, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.normal_(projection.weight, std=width**-0.5)
        nn.init.normal_(self.out_proj.weight, std=width**-0.5 * (2 * depth) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._split(p(x)) for p in (self.q_proj, self.k_proj, self.v_proj))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class ClipTextFeedForward(nn.Module):
    """Linear, QuickGELU (x sigmoid(1.702 x)), linear."""

    def __init__(self, *, width: int, depth: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        nn.init.normal_(self.fc1.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(self.fc2.weight, std=width**-0.5 * (2 * depth) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x)
        return self.fc2(hidden * torch.sigmoid(1.702 * hidden))
