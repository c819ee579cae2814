"""The diffusion transformer for unconditional models."""

from __future__ import annotations

from typing import Any, Literal

import torch

from stable_audio.backbones.dit import DiT
from stable_audio.nn.attention import AttentionOptions
from stable_audio.nn.feedforward import FeedForwardOptions
from stable_audio.nn.norms import NormOptions, NormType


class UncondDiT(DiT):
    """DiT without conditioning. All parameters are halved at the start, as in stable-audio-tools.

    Args:
        in_channels: channels of x and of the output. The others are those of `DiT`.
    """

    def __init__(
        self,
        *,
        in_channels: int = 32,
        patch_size: int = 1,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 8,
        transformer_type: Literal["continuous_transformer", "x-transformers"] = "continuous_transformer",
        global_cond_type: Literal["prepend", "adaLN"] = "prepend",
        timestep_cond_type: Literal["global", "input_concat"] = "global",
        timestep_embed_dim: int | None = None,
        timestep_features_type: Literal["learned", "expo"] = "learned",
        timestep_features_dim: int = 256,
        timestep_features_logsnr: bool = False,
        rotary_pos_emb: bool = True,
        causal: bool = False,
        zero_init_branch_outputs: bool = True,
        conformer: bool = False,
        use_sinusoidal_emb: bool = False,
        use_abs_pos_emb: bool = False,
        abs_pos_emb_max_length: int = 10000,
        num_memory_tokens: int = 0,
        sliding_window: tuple[int, int] | None = None,
        attn_kwargs: AttentionOptions = AttentionOptions(),  # noqa: B008 (frozen)
        ff_kwargs: FeedForwardOptions = FeedForwardOptions(),  # noqa: B008 (frozen)
        norm_kwargs: NormOptions = NormOptions(),  # noqa: B008 (frozen)
        norm_type: NormType = "layer_norm",
        remove_norms: bool = False,
        add_rope: bool = False,
        layer_scale: bool = False,
        attn_layers_kwargs: dict[str, Any] | None = None,
        wrapper_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            io_channels=in_channels,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            transformer_type=transformer_type,
            global_cond_type=global_cond_type,
            timestep_cond_type=timestep_cond_type,
            timestep_embed_dim=timestep_embed_dim,
            timestep_features_type=timestep_features_type,
            timestep_features_dim=timestep_features_dim,
            timestep_features_logsnr=timestep_features_logsnr,
            rotary_pos_emb=rotary_pos_emb,
            causal=causal,
            zero_init_branch_outputs=zero_init_branch_outputs,
            conformer=conformer,
            use_sinusoidal_emb=use_sinusoidal_emb,
            use_abs_pos_emb=use_abs_pos_emb,
            abs_pos_emb_max_length=abs_pos_emb_max_length,
            num_memory_tokens=num_memory_tokens,
            sliding_window=sliding_window,
            attn_kwargs=attn_kwargs,
            ff_kwargs=ff_kwargs,
            norm_kwargs=norm_kwargs,
            norm_type=norm_type,
            remove_norms=remove_norms,
            add_rope=add_rope,
            layer_scale=layer_scale,
            attn_layers_kwargs=attn_layers_kwargs,
            wrapper_kwargs=wrapper_kwargs,
        )
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(0.5)
