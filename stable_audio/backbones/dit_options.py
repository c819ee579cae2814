"""The options of the DiT: keys of its configuration and keywords of its constructor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from stable_audio.nn.checks import check_choice, check_divides, check_positive
from stable_audio.nn.embeddings import TIMESTEP_FEATURES
from stable_audio.nn.local import LocalWidths
from stable_audio.nn.transformer import TransformerOptions
from stable_audio.options import Flat
from stable_audio.types import Slot


@dataclass(frozen=True, kw_only=True)
class TimestepOptions:
    """How the network is conditioned on t.

    Attributes:
        timestep_cond_type: "global": the embedding of t is added to the global vector; "input_concat": it is
            concatenated to x.
        timestep_embed_dim: channels of the embedding that is concatenated to x.
        timestep_features_type: "learned" random Fourier features or "expo", fixed log-spaced ones.
        timestep_features_dim: number of Fourier features.
        timestep_features_logsnr: feed the log-SNR of the rectified flow at t, scaled to [0, 1].
    """

    timestep_cond_type: Literal["global", "input_concat"] = "global"
    timestep_embed_dim: int | None = None
    timestep_features_type: Literal["learned", "expo"] = "learned"
    timestep_features_dim: int = 256
    timestep_features_logsnr: bool = False

    def __post_init__(self) -> None:
        check_choice("timestep_cond_type", self.timestep_cond_type, ("global", "input_concat"))
        check_choice("timestep_features_type", self.timestep_features_type, TIMESTEP_FEATURES)
        check_divides("two", 2, "timestep_features_dim", self.timestep_features_dim)
        if self.as_channels and not self.timestep_embed_dim:
            raise ValueError("timestep_cond_type 'input_concat' needs timestep_embed_dim, its channels")

    @property
    def as_channels(self) -> bool:
        """Whether the embedding of t is concatenated to x."""
        return self.timestep_cond_type == "input_concat"

    @property
    def channels(self) -> int:
        """Channels of t that are concatenated to x."""
        return (self.timestep_embed_dim or 0) if self.as_channels else 0


@dataclass(frozen=True, kw_only=True)
class DiTOptions:
    """Options of the conditional and the unconditional DiT.

    Attributes:
        patch_size: frames folded into one token; n must be a multiple of it.
        embed_dim: width of the transformer.
        depth: number of its blocks.
        num_heads: number of its heads; it must divide embed_dim.
        transformer_type: "continuous_transformer", or "x-transformers" for the package of that name.
        global_cond_type: use of the global vector: "prepend": a token after the prepended ones; "adaLN":
            scales, shifts and gates in every block.
        timestep: how the network is conditioned on t.
        transformer: the blocks and the embeddings around them.
        remove_norms: the same as norm_type "dyt".
        attn_layers_kwargs: arguments of x-transformers' AttentionLayers, with its ff_, attn_ and cross_attn_
            prefixes.
        wrapper_kwargs: arguments of x-transformers' ContinuousTransformerWrapper.
    """

    patch_size: int = 1
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 8
    transformer_type: Literal["continuous_transformer", "x-transformers"] = "continuous_transformer"
    global_cond_type: Literal["prepend", "adaLN"] = "prepend"
    timestep: Flat[TimestepOptions] = TimestepOptions()
    transformer: Flat[TransformerOptions] = TransformerOptions()  # noqa: RUF009 (frozen)
    remove_norms: bool = False
    attn_layers_kwargs: dict[str, Any] | None = None
    wrapper_kwargs: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_positive(patch_size=self.patch_size, embed_dim=self.embed_dim)
        check_choice("global_cond_type", self.global_cond_type, ("prepend", "adaLN"))

    @property
    def modulated(self) -> bool:
        """Whether the global vector modulates every block; otherwise it is a token."""
        return self.global_cond_type == "adaLN"

    @property
    def layers(self) -> TransformerOptions:
        """The options of the transformer, with `remove_norms` applied."""
        if not self.remove_norms:
            return self.transformer
        norm_type = self.transformer.norm_type
        if norm_type not in ("layer_norm", "dyt"):
            raise ValueError(
                f"remove_norms is true, which is norm_type 'dyt', but norm_type is {norm_type!r}"
            )
        return replace(self.transformer, norm_type="dyt")


@dataclass(frozen=True, kw_only=True)
class DiTSlots:
    """The conditioning that a DiT reads.

    Attributes:
        cond_token_dim: width of cross-attention conditioning; 0 for no cross-attention.
        project_cond_tokens: project it to embed_dim; otherwise it keeps its width, and must be a multiple of
            the head width.
        mask_cross_attention: hide padding tokens from cross-attention; all are visible in an item
            without any valid token.
        final_cross_attn_ix: last block with cross-attention; -1 for all.
        global_cond_dim: width of global conditioning; 0 for none.
        project_global_cond: project it to embed_dim; otherwise global_cond_dim must equal embed_dim.
        input_concat_dim: channels concatenated to x, resized to n by nearest interpolation.
        prepend_cond_dim: width of tokens put before x; 0 for none.
        local_add_cond_dim: channels, resized to n by nearest interpolation, whose embedding every block adds
            to the tokens of the same frames; 0 for none. The null conditioning keeps them.
        modular_local_dims: id -> channels of further conditioning of that kind, each with embeddings of its
            own, so that any of them may be absent.
    """

    cond_token_dim: int = 0
    project_cond_tokens: bool = True
    mask_cross_attention: bool = False
    final_cross_attn_ix: int = -1
    global_cond_dim: int = 0
    project_global_cond: bool = True
    input_concat_dim: int = 0
    prepend_cond_dim: int = 0
    local_add_cond_dim: int = 0
    modular_local_dims: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        negative = {s.value: w for s, w in self._all_widths().items() if w < 0}
        if negative:
            raise ValueError(f"widths of conditioning must be 0 or more, found {negative}")
        if wrong := {i: w for i, w in self.modular_local_dims.items() if w <= 0 or "." in i}:
            raise ValueError(
                "modular_local_cond_configs takes dims above 0 and ids without dots (they name modules); "
                f"found {wrong}"
            )

    @property
    def widths(self) -> dict[Slot, int | None]:
        """The width of every slot in use."""
        return {s: w for s, w in self._all_widths().items() if w}

    def local(self, patch_size: int) -> LocalWidths:
        """Widths of local conditioning per token, which has the channels of `patch_size` frames."""
        by_id = {name: width * patch_size for name, width in self.modular_local_dims.items()}
        return LocalWidths(self.local_add_cond_dim * patch_size, by_id)

    def context_dim(self, embed_dim: int) -> int | None:
        """Width of the cross-attention context; None without cross-attention."""
        if not self.cond_token_dim:
            return None
        return embed_dim if self.project_cond_tokens else self.cond_token_dim

    def check_global_dim(self, embed_dim: int) -> None:
        """Raise ValueError if the global vector cannot be added to the embedding of t."""
        if self.global_cond_dim and not self.project_global_cond and self.global_cond_dim != embed_dim:
            raise ValueError(
                f"project_global_cond is false, but global_cond_dim = {self.global_cond_dim} differs from "
                f"embed_dim = {embed_dim}; make them equal or set project_global_cond to true"
            )

    def required(self, options: DiTOptions) -> frozenset[Slot]:
        """The slots without which the network cannot run."""
        required = {Slot.INPUT_CONCAT} & set(self.widths)
        if options.timestep.as_channels and options.modulated:
            if Slot.GLOBAL not in self.widths:
                raise ValueError(
                    "global_cond_type 'adaLN' has nothing to read: set global_cond_dim, or "
                    "timestep_cond_type to 'global'"
                )
            required.add(Slot.GLOBAL)
        return frozenset(required)

    def _all_widths(self) -> dict[Slot, int]:
        return {
            Slot.CROSS_ATTN: self.cond_token_dim,
            Slot.GLOBAL: self.global_cond_dim,
            Slot.PREPEND: self.prepend_cond_dim,
            Slot.INPUT_CONCAT: self.input_concat_dim,
            Slot.LOCAL_ADD: self.local_add_cond_dim,
        }
