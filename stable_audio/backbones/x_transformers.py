"""The `x-transformers` package (lucidrains) as the transformer inside the DiT."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio.backbones.dit_options import DiTOptions
from stable_audio.nn.checkpointing import Checkpointed, Selective, recomputed
from stable_audio.nn.local import LocalWidths
from stable_audio.nn.transformer import TransformerInputs, TransformerOptions
from stable_audio.wording import did_you_mean

_DERIVED_LAYERS = {
    "dim": "embed_dim",
    "depth": "depth",
    "heads": "num_heads",
    "causal": "causal",
    "cross_attend": "cond_token_dim",
    "dim_condition": "embed_dim",
    "rotary_pos_emb": "rotary_pos_emb",
    "zero_init_branch_output": "zero_init_branch_outputs",
    "cross_attn_dim_context": "cond_token_dim",
}
_DERIVED_WRAPPER = {
    "attn_layers": "attn_layers_kwargs",
    "dim_in": "io_channels",
    "dim_out": "io_channels",
    "max_seq_len": "abs_pos_emb_max_length",
    "num_memory_tokens": "num_memory_tokens",
    "use_abs_pos_emb": "use_abs_pos_emb",
    "scaled_sinu_pos_emb": "use_sinusoidal_emb",
}
_OTHER_OUTPUT = frozenset({"average_pool_embed", "probabilistic"})
"""Keywords of the wrapper that change the form of its output, which a denoiser cannot use."""
_MAPPED_OPTIONS = frozenset(
    {
        "rotary_pos_emb",
        "causal",
        "zero_init_branch_outputs",
        "use_abs_pos_emb",
        "abs_pos_emb_max_length",
        "use_sinusoidal_emb",
        "num_memory_tokens",
    }
)


class XTransformer(Checkpointed):
    """Adapts ContinuousTransformerWrapper to the calls of the DiT.

    Args:
        wrapper: the package's ContinuousTransformerWrapper.
        modulated: whether its norms use a global vector.
        num_memory_tokens: learned tokens before all others. They belong to this module, because the wrapper
            cannot combine its own with prepended ones.
        dim: features of the tokens.
    """

    def __init__(self, wrapper: Any, *, modulated: bool, num_memory_tokens: int, dim: int) -> None:
        super().__init__()
        self.memory_tokens: nn.Parameter | None = None
        if num_memory_tokens > 0:
            self.memory_tokens = nn.Parameter(torch.randn(num_memory_tokens, dim))
        self.wrapper = wrapper
        self.modulated = modulated
        self._recompute = [_Recompute.wrap(layer[1]) for layer in wrapper.attn_layers.layers]

    @property
    def switches(self) -> Sequence[_Recompute]:
        """The package's layers, which recompute one by one."""
        return self._recompute

    @property
    def units(self) -> Sequence[nn.Module]:
        """The package's layers."""
        return [layer[1] for layer in self.wrapper.attn_layers.layers]

    @property
    def gradient_checkpointing(self) -> bool:  # type: ignore[override]
        """Whether the backward pass recomputes some of the package's layers."""
        return any(layer.gradient_checkpointing is not False for layer in self._recompute)

    def forward(self, x: Tensor, inputs: TransformerInputs) -> Tensor:
        """x (b n dim_in) -> (b n dim_out), as ContinuousTransformer, but without prepared keys and values."""
        settings: dict[str, Tensor | None] = {"condition": inputs.global_cond} if self.modulated else {}
        if (mask := inputs.context_mask) is not None:
            settings["context_mask"] = mask | ~mask.any(dim=-1, keepdim=True)
        prepend = inputs.prepend
        if self.memory_tokens is not None:
            memory = self.memory_tokens.expand(x.shape[0], -1, -1)
            prepend = memory if prepend is None else torch.cat([memory.to(prepend.dtype), prepend], dim=1)
        out = self.wrapper(x, context=inputs.context, prepend_embeds=prepend, **settings)
        return out[:, -x.shape[1] :]


class _Recompute:
    """A layer's forward that recomputes its activations in the backward pass while it is told to."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward
        self.gradient_checkpointing: bool | Selective = False

    @classmethod
    def wrap(cls, layer: nn.Module) -> _Recompute:
        recompute = cls(layer.forward)
        layer.forward = recompute  # type: ignore[method-assign, assignment]
        return recompute

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.gradient_checkpointing:
            return recomputed(self.forward, self.gradient_checkpointing, *args, **kwargs)
        return self.forward(*args, **kwargs)


def build_x_transformer(
    options: DiTOptions,
    *,
    dim_in: int,
    dim_out: int,
    dim_context: int | None,
    final_cross_attn_ix: int,
    local: LocalWidths,
) -> nn.Module:
    """A ContinuousTransformerWrapper over AttentionLayers, from the DiT's sizes and the user's arguments.

    Raises:
        ImportError: the package is missing.
        ValueError: an argument is unknown, is derived from another key, or has no meaning here.
    """
    continuous, package = _load_package()
    layer_options, dim = options.layers, options.embed_dim
    _check_options(layer_options, final_cross_attn_ix, local)
    layers_kwargs = _tuples(options.attn_layers_kwargs or {})
    wrapper_kwargs = _tuples(options.wrapper_kwargs or {})
    _check_keys("attn_layers_kwargs", layers_kwargs, _layer_keys(package), _DERIVED_LAYERS)
    _check_keys("wrapper_kwargs", wrapper_kwargs, _keywords(continuous), _DERIVED_WRAPPER)
    if unusable := sorted(_OTHER_OUTPUT & {k for k, v in wrapper_kwargs.items() if v}):
        raise ValueError(f"wrapper_kwargs {unusable} change the form of the output; a DiT cannot use them")
    settings: dict[str, Any] = {
        "attn_dim_head": dim // options.num_heads,
        "attn_flash": True,
        "ff_swish": True,
        "ff_glu": True,
        "verbose": False,
    }
    if dim_context is not None:
        settings |= {"cross_attend": True, "cross_attn_dim_context": dim_context}
    if options.modulated:
        settings |= {"use_adaptive_layernorm": True, "use_adaptive_layerscale": True, "dim_condition": dim}
    layers = package.AttentionLayers(
        dim=dim,
        depth=options.depth,
        heads=options.num_heads,
        causal=layer_options.causal,
        rotary_pos_emb=layer_options.rotary_pos_emb,
        zero_init_branch_output=layer_options.zero_init_branch_outputs,
        **(settings | layers_kwargs),
    )
    wrapper = continuous(
        attn_layers=layers,
        dim_in=dim_in,
        dim_out=dim_out,
        max_seq_len=layer_options.abs_pos_emb_max_length if layer_options.use_abs_pos_emb else 0,
        use_abs_pos_emb=layer_options.use_abs_pos_emb,
        scaled_sinu_pos_emb=layer_options.use_sinusoidal_emb,
        **wrapper_kwargs,
    )
    return XTransformer(
        wrapper, modulated=options.modulated, num_memory_tokens=layer_options.num_memory_tokens, dim=dim
    )


def _load_package() -> tuple[Any, Any]:
    try:
        import x_transformers.x_transformers as package
        from x_transformers.continuous import ContinuousTransformerWrapper
    except ImportError as error:
        raise ImportError(
            "transformer_type is 'x-transformers', but the package is not installed: "
            'pip install "stable-audio[x-transformers]"'
        ) from error
    return ContinuousTransformerWrapper, package


def _layer_keys(package: Any) -> set[str]:
    """Every keyword of AttentionLayers, including those with a prefix, which it passes to its parts."""
    keys = _keywords(package.AttentionLayers)
    inner = {"attn_": package.Attention, "cross_attn_": package.Attention, "ff_": package.FeedForward}
    for prefix, cls in inner.items():
        keys |= {prefix + name for name in _keywords(cls) - {"dim", "heads"}}
    return keys


def _keywords(cls: Any) -> set[str]:
    """The keywords of a class in the installed version of the package."""
    parameters = inspect.signature(cls).parameters.values()
    return {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}


def _check_keys(key: str, arguments: dict[str, Any], names: set[str], derived: dict[str, str]) -> None:
    for name in arguments:
        if name in derived:
            raise ValueError(f"{key}.{name} follows from '{derived[name]}'; set that instead")
        if name not in names:
            advice = did_you_mean(name, sorted(names))
            raise ValueError(f"{key}.{name} is unknown to the installed x-transformers; {advice}")


def _check_options(options: TransformerOptions, final_cross_attn_ix: int, local: LocalWidths) -> None:
    """Refuse options of ContinuousTransformer without a counterpart here, instead of ignoring them."""
    defaults = vars(TransformerOptions())
    unmapped = {n: v for n, v in vars(options).items() if n not in _MAPPED_OPTIONS}
    changed = [name for name, value in unmapped.items() if value != defaults[name]]
    changed += ["final_cross_attn_ix"] if final_cross_attn_ix != -1 else []
    changed += ["local_add_cond_dim"] if local.joined else []
    changed += ["modular_local_cond_configs"] if local.by_id else []
    if changed:
        raise ValueError(
            f"{changed} apply to transformer_type 'continuous_transformer'; "
            "give x-transformers' own keywords in attn_layers_kwargs"
        )


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Turn JSON lists into tuples, with which the package compares."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
