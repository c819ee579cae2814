"""The diffusion transformer (Peebles & Xie, 2023; Evans et al., 2024) over latents or waveforms.

Checkpoint keys and the order of operations are those of stable-audio-tools.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio.backbones.base import Backbone
from stable_audio.backbones.dit_options import DiTOptions, DiTSlots
from stable_audio.backbones.dit_parts import (
    TRANSFORMERS,
    at_length,
    check_whole_frames,
    expect_other_sizes,
    patch,
    projection,
    token_mask,
    unpatch,
    zero_conv,
)
from stable_audio.nn.checks import check_choice, check_positive
from stable_audio.nn.compiling import runs_compiled
from stable_audio.nn.embeddings import TIMESTEP_FEATURES, ProjectionMLP
from stable_audio.nn.local import LocalTokens
from stable_audio.nn.packed import PackedRow, check_lengths
from stable_audio.nn.precision import parameter_dtype, rounds
from stable_audio.nn.transformer import ContinuousTransformer, TransformerInputs
from stable_audio.options import Flat, takes_keywords
from stable_audio.types import Conditioning, Slot


@dataclass(frozen=True)
class _Projected:
    """What a forward pass needs besides x and t.

    Attributes:
        inputs: conditioning of the transformer.
        dtype: type of the parameters, to which x and the features of t are cast. A model in half precision
            has to look at all of them to tell it.
    """

    inputs: TransformerInputs
    dtype: torch.dtype


class DiT(Backbone):
    """Transformer that predicts the diffusion target from (x, t, conditioning).

    Masks of token conditioning are not applied unless `mask_cross_attention` says so, because published
    checkpoints were trained without them: conditioners zero the padding instead. The null conditioning is
    zeros in cross-attention and prepended tokens; all other conditioning stays.

    The fields of both options are keywords, too: `DiT(depth=2, cond_token_dim=64, causal=True)`.

    Args:
        io_channels: channels of x and of the output.
        slots: the conditioning, see `DiTSlots`.
        options: see `DiTOptions`, which includes those of the transformer and of t.

    Raises:
        ValueError: a value is out of range or values contradict each other.
        ImportError: an option needs a package that is not installed; the message names the extra.
    """

    @takes_keywords
    def __init__(
        self,
        *,
        io_channels: int = 32,
        slots: Flat[DiTSlots] = DiTSlots(),  # noqa: B008 (frozen)
        options: Flat[DiTOptions] = DiTOptions(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        check_positive(io_channels=io_channels)
        check_choice("transformer_type", options.transformer_type, TRANSFORMERS)
        slots.check_global_dim(options.embed_dim)
        self.io_channels, self.length_multiple = io_channels, options.patch_size
        self.options, self.patch_size = options, options.patch_size
        self.masks_attention = slots.mask_cross_attention
        self.slot_widths, self.required_slots = slots.widths, slots.required(options)
        self._needed = tuple(self.required_slots)  # torch before 2.9 does not compile loops over sets
        self.modular_local_dims = dict(slots.modular_local_dims)
        self.masks_padding = options.transformer_type == "continuous_transformer"

        dim, timestep = options.embed_dim, options.timestep
        context_dim = slots.context_dim(dim)
        self.timestep_features = TIMESTEP_FEATURES[timestep.timestep_features_type](
            timestep.timestep_features_dim
        )
        self.to_timestep_embed = ProjectionMLP(
            timestep.timestep_features_dim, timestep.channels or dim, bias=True
        )
        self.to_cond_embed = projection(slots.cond_token_dim, context_dim or dim)
        self.to_global_embed = projection(slots.global_cond_dim, dim)
        self.to_prepend_embed = projection(slots.prepend_cond_dim, dim)

        dim_in = io_channels + slots.input_concat_dim + timestep.channels
        self.preprocess_conv = zero_conv(dim_in)
        self.transformer: Any = TRANSFORMERS[options.transformer_type](
            options,
            dim_in=dim_in * self.patch_size,
            dim_out=io_channels * self.patch_size,
            dim_context=context_dim,
            final_cross_attn_ix=slots.final_cross_attn_ix,
            local=slots.local(self.patch_size),
        )
        self.postprocess_conv = zero_conv(io_channels)
        self.time_as_channels, self.modulated = timestep.as_channels, options.modulated

    def forward(self, x: Tensor, t: Tensor, cond: Conditioning, row: PackedRow | None = None) -> Tensor:
        """x (b io_channels n), t (b,) -> (b io_channels n).

        Args:
            row: the clips of x as one row, which `forward_packed` makes.

        Raises:
            ValueError: n is not a multiple of patch_size, a required slot is empty, or a padding mask has
                another shape than (b n).
        """
        tokens, inputs = self._embedded(x, t, cond)
        if row is not None:
            return self._output(self.transformer.forward_packed(tokens, row, inputs))
        return self._output(self.transformer(tokens, inputs))

    def forward_packed(self, x: Tensor, t: Tensor, cond: Conditioning, lengths: Sequence[int]) -> Tensor:
        """See Backbone. The tokens of all clips, with their prepended and memory tokens, become one row.

        Raises:
            ValueError: as in Backbone, or input_concat has another length than x, so its padding is unknown.
        """
        self._check_packing(x, cond, lengths)
        compiled = runs_compiled(self)
        row = self.transformer.row(
            [n // self.patch_size for n in lengths],
            padded=x.shape[-1] // self.patch_size,
            prepended=self._prepended(cond),
            device=x.device,
            dtype=torch.get_autocast_dtype(x.device.type) if rounds(x) else parameter_dtype(self),
            compiled=compiled,
        )
        if compiled:
            expect_other_sizes(x, t, cond)
        return self(x, t, cond, row)  # as a call of the module, which may be compiled

    def hidden_states(
        self, x: Tensor, t: Tensor, cond: Conditioning, *, exit_layer: int | None = None
    ) -> list[Tensor]:
        """Outputs (b memory + prepended + n / patch_size, embed_dim) of the layers 0 .. exit_layer.

        Layers after exit_layer do not run; None runs all.
        """
        if not isinstance(self.transformer, ContinuousTransformer):
            raise ValueError("hidden_states needs transformer_type 'continuous_transformer'")
        tokens, inputs = self._embedded(x, t, cond)
        return self.transformer.hidden_states(tokens, inputs, exit_layer=exit_layer)

    def features(self, x: Tensor, t: Tensor, cond: Conditioning, *, layer: int) -> Tensor:
        """Output of one layer without memory tokens, prepended tokens first."""
        hidden = self.hidden_states(x, t, cond, exit_layer=layer)[-1]
        return hidden[:, self.transformer.num_memory_tokens :]

    def null(self, cond: Conditioning) -> Conditioning | None:
        """Zeros for cross-attention and prepended tokens; None without either. The rest is kept."""
        tokens = {"cross_attn": cond.cross_attn, "prepend": cond.prepend}
        zeros = {name: torch.zeros_like(v) for name, v in tokens.items() if v is not None}
        return cond.replace(**zeros) if zeros else None

    def prepare(self, cond: Conditioning) -> Conditioning:
        """Project all conditioning, and compute the keys and values of every cross-attention."""
        projected = self._projected(cond)
        context = projected.inputs.context
        if context is not None and isinstance(self.transformer, ContinuousTransformer):
            kvs = self.transformer.prepare_context(context)
            projected = replace(projected, inputs=replace(projected.inputs, context=None, kvs=kvs))
        return cond.replace(prepared=projected)

    @property
    def read_apart(self) -> Sequence[tuple[nn.Module, str]]:
        """`prepare` computes the keys and values of every cross-attention."""
        if not isinstance(self.transformer, ContinuousTransformer):
            return ()
        return [(block, "project_context") for block in self.transformer.layers]

    @property
    def repeated(self) -> Sequence[nn.Module]:
        """The blocks of the transformer."""
        if not isinstance(self.transformer, ContinuousTransformer):
            return ()
        return list(self.transformer.layers)

    @property
    def packing_obstacles(self) -> tuple[str, ...]:
        if not isinstance(self.transformer, ContinuousTransformer):
            return ("transformer_type 'x-transformers'",)
        return self.transformer.packing_obstacles

    def _embedded(self, x: Tensor, t: Tensor, cond: Conditioning) -> tuple[Tensor, TransformerInputs]:
        """The tokens of x, and the other inputs of the transformer."""
        self._check(x, cond)
        projected = cond.prepared
        if not isinstance(projected, _Projected):
            # In training the layers compute keys and values, so that checkpointing can recompute them.
            projected = self._projected(cond)
        # t stays in float32 until it is embedded.
        t_embed = self.to_timestep_embed(self._timestep_features(t).to(projected.dtype))
        channels = self._with_channels(x.to(projected.dtype), t_embed, cond.input_concat)
        tokens = patch(channels + self.preprocess_conv(channels), self.patch_size)
        inputs = replace(
            projected.inputs,
            local=self._local(cond, x.shape[-1], projected.dtype),
            padding_mask=self._padding(cond.padding_mask, x),
        )
        return tokens, self._with_time(inputs, t_embed)

    def _output(self, tokens: Tensor) -> Tensor:
        out = unpatch(tokens, self.patch_size)
        return out + self.postprocess_conv(out)

    def _projected(self, cond: Conditioning) -> _Projected:
        """Conditioning after the projections, which depend on neither x nor t."""
        dtype = parameter_dtype(self)

        def project(layer: ProjectionMLP | None, value: Tensor | None) -> Tensor | None:
            return None if layer is None or value is None else layer(value.to(dtype))

        inputs = TransformerInputs(
            context=project(self.to_cond_embed, cond.cross_attn),
            context_mask=cond.cross_attn_mask if self.masks_attention else None,
            prepend=project(self.to_prepend_embed, cond.prepend),
            global_cond=project(self.to_global_embed, cond.global_cond),
        )
        return _Projected(inputs, dtype)

    def _timestep_features(self, t: Tensor) -> Tensor:
        t = t.float()
        if self.options.timestep.timestep_features_logsnr:
            t = (5.0 - torch.logit(1.0 - t, eps=1e-7).clamp(-12.0, 5.0)) / 17.0
        return self.timestep_features(t)

    def _with_channels(self, x: Tensor, t_embed: Tensor, input_concat: Tensor | None) -> Tensor:
        """x followed by the channels of input_concat and of t."""
        parts = [x]
        if input_concat is not None and Slot.INPUT_CONCAT in self.slot_widths:
            parts.append(at_length(input_concat, x.shape[-1]).to(x.dtype))
        if self.time_as_channels:
            parts.append(t_embed.to(x.dtype).unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _local(self, cond: Conditioning, length: int, dtype: torch.dtype) -> LocalTokens | None:
        """Local conditioning as tokens of x, one per patch; None if there is none."""

        def tokens(frames: Tensor) -> Tensor:
            return patch(at_length(frames, length).to(dtype), self.patch_size)

        joined = cond.local_add if Slot.LOCAL_ADD in self.slot_widths else None
        present: Mapping[str, Tensor] = cond.modular_local or {}
        by_id = {name: tokens(present[name]) for name in self.modular_local_dims if name in present}
        if joined is None and not by_id:
            return None
        return LocalTokens(None if joined is None else tokens(joined), by_id)

    def _padding(self, mask: Tensor | None, x: Tensor) -> Tensor | None:
        """The mask of the tokens of x."""
        if mask is not None and not self.masks_padding:
            raise ValueError("transformer_type 'x-transformers' takes no padding mask")
        return None if mask is None else token_mask(mask, x, self.patch_size)

    def _with_time(self, inputs: TransformerInputs, t_embed: Tensor) -> TransformerInputs:
        """`inputs` with t in the global vector, which becomes a token unless it modulates the blocks."""
        global_cond, prepend = inputs.global_cond, inputs.prepend
        if not self.time_as_channels:
            global_cond = t_embed if global_cond is None else global_cond + t_embed
        if not self.modulated and global_cond is not None:
            token = global_cond.unsqueeze(1)
            prepend = token if prepend is None else torch.cat([prepend, token], dim=1)
            global_cond = None
        return inputs.with_vectors(prepend=prepend, global_cond=global_cond)

    def _prepended(self, cond: Conditioning) -> int:
        """Tokens that `_with_time` puts before each clip."""
        if isinstance(cond.prepared, _Projected):
            prepend, has_global = cond.prepared.inputs.prepend, cond.prepared.inputs.global_cond is not None
        else:
            prepend = None if self.to_prepend_embed is None else cond.prepend
            has_global = self.to_global_embed is not None and cond.global_cond is not None
        time = not self.modulated and (not self.time_as_channels or has_global)
        return int(time) + (0 if prepend is None else prepend.shape[1])

    def _check(self, x: Tensor, cond: Conditioning) -> None:
        if lacking := [s.value for s in self._needed if cond.slot(s) is None]:
            raise ValueError(f"conditioning lacks {lacking}, which this DiT needs")
        if x.shape[-1] % self.patch_size:
            raise ValueError(f"length {x.shape[-1]} is not a multiple of patch_size = {self.patch_size}")

    def _check_packing(self, x: Tensor, cond: Conditioning, lengths: Sequence[int]) -> None:
        if self.packing_obstacles:
            raise ValueError(f"clips cannot share a row with {', '.join(self.packing_obstacles)}")
        check_lengths(lengths, clips=x.shape[0], padded=x.shape[-1], multiple=self.patch_size)
        check_whole_frames(cond, self.slots, x.shape[-1])
