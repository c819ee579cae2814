"""The diffusion transformer (Peebles & Xie, 2023; Evans et al., 2024) over latents or waveforms.

Checkpoint keys and the order of operations are those of stable-audio-tools.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.backbones.base import Backbone
from stable_audio.backbones.dit_parts import (
    TRANSFORMERS,
    PreparedDiT,
    norm_type_of,
    patch,
    slot_widths_of,
    unpatch,
    zero_conv,
)
from stable_audio.nn.attention import AttentionOptions
from stable_audio.nn.checks import check_choice, check_divides, check_positive
from stable_audio.nn.embeddings import TIMESTEP_FEATURES, ProjectionMLP
from stable_audio.nn.feedforward import FeedForwardOptions
from stable_audio.nn.norms import NormOptions, NormType
from stable_audio.nn.packed import check_lengths
from stable_audio.nn.transformer import ContinuousTransformer, TransformerOptions
from stable_audio.types import Conditioning, Slot


class DiT(Backbone):
    """Transformer that predicts the diffusion target from (x, t, conditioning).

    Masks of token conditioning are not applied unless `mask_cross_attention` says so, because published
    checkpoints were trained without: conditioners mark padding by zeroing it. The null conditioning is
    zeros in cross-attention and prepended tokens; global conditioning and input concat stay.

    Args:
        io_channels: channels of x and of the output.
        patch_size: frames folded into one token; n must be a multiple of it.
        embed_dim, depth, num_heads: width, blocks and heads of the transformer.
        cond_token_dim: width of cross-attention conditioning; 0 for no cross-attention.
        project_cond_tokens: project it to embed_dim; otherwise it keeps its width, and must be a
            multiple of the head width.
        mask_cross_attention: hide padding tokens from cross-attention; an item without any valid token
            sees them all.
        global_cond_dim: width of global conditioning; 0 for none.
        project_global_cond: project it to embed_dim; otherwise global_cond_dim must equal embed_dim.
        input_concat_dim: channels concatenated to x, resized to n by nearest interpolation.
        prepend_cond_dim: width of tokens put before x; 0 for none.
        transformer_type: "continuous_transformer", or "x-transformers" for the package of that name.
        global_cond_type: how the global vector enters: "prepend" as a token after the prepended ones,
            "adaLN" as scales, shifts and gates in every block.
        timestep_cond_type: "global": t joins the global vector; "input_concat": its embedding of
            timestep_embed_dim channels joins x.
        timestep_features_type: "learned" random Fourier features or "expo", fixed log-spaced ones.
        timestep_features_dim: number of Fourier features.
        timestep_features_logsnr: feed the log-SNR of the rectified flow at t, scaled to [0, 1].
        attn_kwargs, ff_kwargs, norm_kwargs: options of the layers.
        remove_norms: the same as norm_type "dyt".
        attn_layers_kwargs, wrapper_kwargs: arguments of x-transformers' AttentionLayers (with its ff_,
            attn_ and cross_attn_ prefixes) and ContinuousTransformerWrapper.

    The remaining arguments are described in `TransformerOptions`.

    Raises:
        ValueError: a value is out of range or values contradict each other.
        ImportError: an option needs a package that is not installed; the message names the extra.
    """

    def __init__(
        self,
        *,
        io_channels: int = 32,
        patch_size: int = 1,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 8,
        cond_token_dim: int = 0,
        project_cond_tokens: bool = True,
        mask_cross_attention: bool = False,
        global_cond_dim: int = 0,
        project_global_cond: bool = True,
        input_concat_dim: int = 0,
        prepend_cond_dim: int = 0,
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
        final_cross_attn_ix: int = -1,
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
        super().__init__()
        check_positive(io_channels=io_channels, patch_size=patch_size, embed_dim=embed_dim)
        check_choice("transformer_type", transformer_type, TRANSFORMERS)
        check_choice("global_cond_type", global_cond_type, ("prepend", "adaLN"))
        self.io_channels, self.length_multiple = io_channels, patch_size
        self.embed_dim, self.patch_size = embed_dim, patch_size
        self.mask_cross_attention = self.masks_attention = mask_cross_attention
        self.global_as_token = global_cond_type == "prepend"
        self.slot_widths = slot_widths_of(cond_token_dim, global_cond_dim, prepend_cond_dim, input_concat_dim)

        timestep_channels = self._add_timestep(
            timestep_cond_type, timestep_embed_dim, timestep_features_type, timestep_features_dim
        )
        self.timestep_features_logsnr = timestep_features_logsnr
        self._add_projections(project_cond_tokens, project_global_cond)
        self._require_slots()

        dim_in = io_channels + input_concat_dim + timestep_channels
        self.preprocess_conv = zero_conv(dim_in)
        self.transformer: Any = TRANSFORMERS[transformer_type](
            dim_in=dim_in * patch_size,
            dim_out=io_channels * patch_size,
            dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            dim_context=(embed_dim if project_cond_tokens else cond_token_dim) if cond_token_dim else None,
            modulated=not self.global_as_token,
            options=TransformerOptions(
                rotary_pos_emb=rotary_pos_emb,
                causal=causal,
                zero_init_branch_outputs=zero_init_branch_outputs,
                conformer=conformer,
                use_sinusoidal_emb=use_sinusoidal_emb,
                use_abs_pos_emb=use_abs_pos_emb,
                abs_pos_emb_max_length=abs_pos_emb_max_length,
                num_memory_tokens=num_memory_tokens,
                sliding_window=sliding_window,
                final_cross_attn_ix=final_cross_attn_ix,
                norm_type=norm_type_of(norm_type, remove_norms),
                add_rope=add_rope,
                layer_scale=layer_scale,
                attn=attn_kwargs,
                ff=ff_kwargs,
                norms=norm_kwargs,
            ),
            extra={"attn_layers_kwargs": attn_layers_kwargs, "wrapper_kwargs": wrapper_kwargs},
        )
        self.postprocess_conv = zero_conv(io_channels)

    def _add_timestep(self, cond_type: str, dim: int | None, features: str, features_dim: int) -> int:
        """Add the embedding of t; returns the channels that it adds to x."""
        check_choice("timestep_cond_type", cond_type, ("global", "input_concat"))
        check_choice("timestep_features_type", features, TIMESTEP_FEATURES)
        check_divides("two", 2, "timestep_features_dim", features_dim)
        self.timestep_as_channels = cond_type == "input_concat"
        if self.timestep_as_channels and not dim:
            raise ValueError("timestep_cond_type 'input_concat' needs timestep_embed_dim, its channels")
        out_dim = dim if self.timestep_as_channels and dim else self.embed_dim
        self.timestep_features = TIMESTEP_FEATURES[features](features_dim)
        self.to_timestep_embed = ProjectionMLP(features_dim, out_dim, bias=True)
        return out_dim if self.timestep_as_channels else 0

    def _add_projections(self, project_tokens: bool, project_global: bool) -> None:
        tokens, global_, prepend = (
            self.slot_widths.get(s) for s in (Slot.CROSS_ATTN, Slot.GLOBAL, Slot.PREPEND)
        )
        if tokens:
            out = self.embed_dim if project_tokens else tokens
            self.to_cond_embed = ProjectionMLP(tokens, out, bias=False)
        if global_:
            if not project_global and global_ != self.embed_dim:
                raise ValueError(
                    f"project_global_cond is false, but global_cond_dim = {global_} differs from "
                    f"embed_dim = {self.embed_dim}; make them equal or set project_global_cond to true"
                )
            out = self.embed_dim if project_global else global_
            self.to_global_embed = ProjectionMLP(global_, out, bias=False)
        if prepend:
            self.to_prepend_embed = ProjectionMLP(prepend, self.embed_dim, bias=False)

    def _require_slots(self) -> None:
        required = {Slot.INPUT_CONCAT} & self.slots
        if self.timestep_as_channels and not self.global_as_token:
            if Slot.GLOBAL not in self.slots:
                raise ValueError(
                    "global_cond_type 'adaLN' has nothing to read: set global_cond_dim, or "
                    "timestep_cond_type to 'global'"
                )
            required = required | {Slot.GLOBAL}
        self.required_slots = frozenset(required)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters. Inputs are cast to it; t stays in float32 until it is embedded."""
        return self.preprocess_conv.weight.dtype

    def enable_gradient_checkpointing(self, enabled: bool = True) -> None:
        super().enable_gradient_checkpointing(enabled)
        self.transformer.gradient_checkpointing = enabled

    def null(self, cond: Conditioning) -> Conditioning | None:
        """Zeros for cross-attention and prepended tokens; None without either."""
        tokens = {n: getattr(cond, n) for n in ("cross_attn", "prepend")}
        zeros = {n: torch.zeros_like(v) for n, v in tokens.items() if v is not None}
        return cond.replace(**zeros) if zeros else None

    def prepare(self, cond: Conditioning) -> Conditioning:
        """Project all conditioning, and compute the keys and values of every cross-attention."""
        prepared = self._projected(cond)
        if prepared.context is not None and isinstance(self.transformer, ContinuousTransformer):
            kvs = self.transformer.prepare_context(prepared.context)
            prepared = replace(prepared, context=None, kvs=kvs)
        return cond.replace(prepared=prepared)

    def forward(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """x (b io_channels n), t (b,) -> (b io_channels n).

        Raises:
            ValueError: n is not a multiple of patch_size, or a required slot is empty.
        """
        tokens, arguments = self._inputs(x, t, cond)
        out = unpatch(self.transformer(tokens, **arguments), self.patch_size)
        return out + self.postprocess_conv(out)

    @property
    def packing_obstacles(self) -> tuple[str, ...]:
        if not isinstance(self.transformer, ContinuousTransformer):
            return ("transformer_type 'x-transformers'",)
        return self.transformer.packing_obstacles

    def forward_packed(self, x: Tensor, t: Tensor, cond: Conditioning, lengths: Sequence[int]) -> Tensor:
        """See Backbone. The tokens of all clips, with their prepended and memory tokens, become one row.

        Raises:
            ValueError: also when input_concat has another length than x, so that its padding is not known.
        """
        if self.packing_obstacles:
            raise ValueError(f"clips cannot share a row with {', '.join(self.packing_obstacles)}")
        check_lengths(lengths, clips=x.shape[0], padded=x.shape[-1], multiple=self.patch_size)
        concat = cond.input_concat if Slot.INPUT_CONCAT in self.slots else None
        if concat is not None and concat.shape[-1] not in (1, x.shape[-1]):
            raise ValueError(
                f"input_concat has {concat.shape[-1]} frames, but packed clips need it as long as x, "
                f"{x.shape[-1]}: its frames could not be told from its padding"
            )
        tokens, arguments = self._inputs(x, t, cond)
        counts = [n // self.patch_size for n in lengths]
        out = unpatch(self.transformer.forward_packed(tokens, counts, **arguments), self.patch_size)
        return out + self.postprocess_conv(out)

    def hidden_states(
        self, x: Tensor, t: Tensor, cond: Conditioning, *, exit_layer: int | None = None
    ) -> list[Tensor]:
        """Outputs (b memory + prepended + n / patch_size, embed_dim) of the layers 0 .. exit_layer.

        Layers after exit_layer do not run; None runs all.
        """
        if not isinstance(self.transformer, ContinuousTransformer):
            raise ValueError("hidden_states needs transformer_type 'continuous_transformer'")
        tokens, arguments = self._inputs(x, t, cond)
        return self.transformer.hidden_states(tokens, exit_layer=exit_layer, **arguments)

    def features(self, x: Tensor, t: Tensor, cond: Conditioning, *, layer: int) -> Tensor:
        """Output of one layer without memory tokens, prepended tokens first."""
        hidden = self.hidden_states(x, t, cond, exit_layer=layer)[-1]
        return hidden[:, self.transformer.num_memory_tokens :]

    def _inputs(self, x: Tensor, t: Tensor, cond: Conditioning) -> tuple[Tensor, dict[str, Any]]:
        missing = [s.value for s in self.required_slots - cond.present()]
        if missing:
            raise ValueError(f"conditioning lacks {missing}, which this DiT was built to read")
        if x.shape[-1] % self.patch_size:
            raise ValueError(f"length {x.shape[-1]} is not a multiple of patch_size = {self.patch_size}")
        prepared = cond.prepared
        if not isinstance(prepared, PreparedDiT):
            # In training the layers make keys and values, so that checkpointing can recompute them.
            prepared = self._projected(cond)
        t_embed = self.to_timestep_embed(self._timestep_features(t))
        x = self._concat_channels(x.to(self.dtype), t_embed, cond.input_concat)
        tokens = patch(x + self.preprocess_conv(x), self.patch_size)
        return tokens, self._arguments(prepared, t_embed)

    def _projected(self, cond: Conditioning) -> PreparedDiT:
        return PreparedDiT(
            context=self._project("to_cond_embed", cond.cross_attn),
            kvs=None,
            mask=cond.cross_attn_mask if self.mask_cross_attention else None,
            prepend=self._project("to_prepend_embed", cond.prepend),
            global_=self._project("to_global_embed", cond.global_),
        )

    def _project(self, name: str, value: Tensor | None) -> Tensor | None:
        return None if value is None or not hasattr(self, name) else getattr(self, name)(value.to(self.dtype))

    def _timestep_features(self, t: Tensor) -> Tensor:
        t = t.float()
        if self.timestep_features_logsnr:
            t = (5.0 - torch.logit(1.0 - t, eps=1e-7).clamp(-12.0, 5.0)) / 17.0
        return self.timestep_features(t).to(self.dtype)

    def _concat_channels(self, x: Tensor, t_embed: Tensor, input_concat: Tensor | None) -> Tensor:
        parts = [x]
        if input_concat is not None and Slot.INPUT_CONCAT in self.slots:
            if input_concat.shape[-1] != x.shape[-1]:
                input_concat = F.interpolate(input_concat.float(), size=x.shape[-1], mode="nearest")
            parts.append(input_concat.to(x.dtype))
        if self.timestep_as_channels:
            parts.append(t_embed.to(x.dtype).unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _arguments(self, prepared: PreparedDiT, t_embed: Tensor) -> dict[str, Any]:
        global_, prepend = prepared.global_, prepared.prepend
        if not self.timestep_as_channels:
            global_ = t_embed if global_ is None else global_ + t_embed
        if self.global_as_token and global_ is not None:
            token = global_.unsqueeze(1)
            prepend = token if prepend is None else torch.cat([prepend, token], dim=1)
            global_ = None
        return {
            "context": prepared.context,
            "kvs": prepared.kvs,
            "context_mask": prepared.mask,
            "prepend": prepend,
            "global_": global_,
        }
