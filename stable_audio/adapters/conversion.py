"""Adapters of one type as those of another, where the weights that they give are the same.

A candidate of the other type is derived from the updated weights, and refused unless it gives these again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from stable_audio.adapters.errors import AdapterError
from stable_audio.adapters.files import Adapter
from stable_audio.adapters.rescaling import ColumnRescaling, RowRescaling
from stable_audio.adapters.settings import AdapterSettings
from stable_audio.adapters.terms import LayerTerm, Weights, norm, relative, terms_of
from stable_audio.adapters.updates import ADAPTER_TYPES, LowRankUpdate, singular_vectors
from stable_audio.wording import did_you_mean

EXACT = 1e-5
"""Greatest difference of two updated weights that count as the same, relative to the change of the weight.
Singular vectors in float32 leave about 1e-6; adapters that are not the same differ by tenths."""


def check_type(adapter_type: str) -> None:
    """Raise AdapterError unless there is such a type."""
    if adapter_type not in ADAPTER_TYPES:
        raise AdapterError(f"--type '{adapter_type}' is unknown; {did_you_mean(adapter_type, ADAPTER_TYPES)}")


def converted(adapter: Adapter, adapter_type: str, weights: Weights | None) -> Adapter:
    """The adapter as one of another type, which changes the weights alike at strength 1.

    Between `lora` and `lora-xs`, and between `TYPE` and `TYPE-xs`, it does so at every strength.

    Args:
        weights: of the model, without adapters; not needed where the type stays.

    Raises:
        AdapterError: an unknown type; no weights; or no adapter of that type gives the same weights, with the
            layer that differs most.
    """
    settings = adapter.settings
    check_type(adapter_type)
    if adapter_type == settings.adapter_type:
        return adapter
    if weights is None:
        raise AdapterError(
            f"{adapter.source}: converting '{settings.adapter_type}' to '{adapter_type}' needs the weights "
            "of its model; name the model with --base"
        )
    layers: dict[str, dict[str, Tensor]] = {}
    errors: dict[str, float] = {}
    for name, term in terms_of(adapter, weights).items():
        base = weights[name].double()
        updated = _updated(base, term, settings.adapter_type)
        candidate = _candidate(base, updated, term, settings.adapter_type, adapter_type, settings.rank)
        layers[name] = _tensors(candidate, base, adapter_type, settings.rank)
        again = _updated(base, _term(layers[name], base), adapter_type)
        errors[name] = relative(norm(again - updated), norm(updated - base))
    worst = max(errors, key=lambda name: errors[name])
    if errors[worst] > EXACT:
        raise AdapterError(
            f"{adapter.source}: no '{adapter_type}' of rank {settings.rank} gives the weights of this "
            f"'{settings.adapter_type}': {worst} would be off by {errors[worst]:.2g} of its change, and "
            f"{sum(e > EXACT for e in errors.values())} layers are; merge it into its model, or approximate "
            "what it changes with `stable-audio adapter extract`"
        )
    rank = settings.rank
    new = AdapterSettings(
        rank=rank,
        alpha=rank,
        adapter_type=adapter_type,
        dropout=settings.dropout,
        include=settings.include,
        exclude=settings.exclude,
    )
    return replace(adapter, settings=new, layers={k: _floats(v) for k, v in layers.items()})


def _candidate(
    base: Tensor, updated: Tensor, term: LayerTerm, old_type: str, new_type: str, rank: int
) -> LayerTerm:
    """A term and norms of the new type that may give `updated` (out, in) again."""
    old, new = ADAPTER_TYPES[old_type].rescaling, ADAPTER_TYPES[new_type].rescaling
    down, up = term.down.double(), term.up.double()
    if old.axes and not new.axes:
        # The whole change, rescaling included, is the low-rank term now.
        u, s, vh = torch.linalg.svd(updated - base, full_matrices=False)
        down, up = vh[:rank], u[:, :rank] * s[:rank]
    if old is new:
        return LayerTerm(down, up, {key: value.double() for key, value in term.norms.items()})
    norms = {key: torch.linalg.vector_norm(updated, dim=axis) for key, axis in new.axes.items()}
    if "magnitude_r" in norms:
        # Rows come first: without norms of their own they stay as they are by then.
        norms["magnitude_r"] = torch.linalg.vector_norm(base + up @ down, dim=1)
        for key, kind in (("magnitude_r", RowRescaling), ("magnitude_c", ColumnRescaling)):
            if old is kind:
                norms[key] = term.norms["magnitude"].double()
    return LayerTerm(down, up, norms)


def _tensors(term: LayerTerm, base: Tensor, adapter_type: str, rank: int) -> dict[str, Tensor]:
    """The tensors of a file, with alpha equal to the rank."""
    if ADAPTER_TYPES[adapter_type].update is LowRankUpdate:
        padded = term.padded(rank)
        return {"lora_A": padded.down, "lora_B": padded.up, **term.norms}
    u, v = singular_vectors(base, min(term.rank, *base.shape))
    return {"M_xs": u.double().T @ term.up @ (term.down @ v.double()), **term.norms}


def _term(tensors: Mapping[str, Tensor], base: Tensor) -> LayerTerm:
    norms = {key: value for key, value in tensors.items() if key.startswith("magnitude")}
    if "M_xs" not in tensors:
        return LayerTerm(tensors["lora_A"], tensors["lora_B"], norms)
    u, v = singular_vectors(base, tensors["M_xs"].shape[0])
    return LayerTerm(v.double().T, u.double() @ tensors["M_xs"], norms)


def _updated(base: Tensor, term: LayerTerm, adapter_type: str) -> Tensor:
    """The weight with an adapter at strength 1."""
    weight = base + term.up.double() @ term.down.double()
    vectors = {key: value.double() for key, value in term.norms.items()}
    return ADAPTER_TYPES[adapter_type].rescaling()(weight, vectors)


def _floats(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.float().contiguous() for key, value in tensors.items()}


def every_strength(old_type: str, new_type: str) -> bool:
    """Whether a conversion holds at every strength, not at 1 alone."""
    return ADAPTER_TYPES[old_type].rescaling is ADAPTER_TYPES[new_type].rescaling
