"""Low-rank terms of layers by themselves, and adapters made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stable_audio.adapters.errors import AdapterError
from stable_audio.adapters.files import Adapter
from stable_audio.adapters.settings import AdapterSettings
from stable_audio.adapters.updates import singular_vectors

Weights = Mapping[str, Tensor]
"""Name of each layer -> its weight without adapters as a matrix (out, in)."""


@dataclass(frozen=True)
class LayerTerm:
    """The change up @ down of one weight, factors included.

    Attributes:
        down: (rank, in).
        up: (out, rank).
        norms: trained norms by their name, as in `Rescaling.axes`.
    """

    down: Tensor
    up: Tensor
    norms: Mapping[str, Tensor]

    @property
    def rank(self) -> int:
        """Rank of the term at most."""
        return self.down.shape[0]

    def padded(self, rank: int) -> LayerTerm:
        """The same change, with zeros up to a rank."""
        down = self.down.new_zeros(rank, self.down.shape[1])
        up = self.up.new_zeros(self.up.shape[0], rank)
        down[: self.rank], up[:, : self.rank] = self.down, self.up
        return LayerTerm(down, up, self.norms)


def terms_of(adapter: Adapter, weights: Weights | None = None) -> dict[str, LayerTerm]:
    """The terms of an adapter by layer, in float32.

    Args:
        weights: needed for the types that end in `-xs`, whose files have no singular vectors.

    Raises:
        AdapterError: the adapter is of such a type, and there are no weights.
    """
    scaling = adapter.settings.scaling
    terms = {}
    for name, tensors in adapter.layers.items():
        norms = {key: value.float() for key, value in tensors.items() if key.startswith("magnitude")}
        if "M_xs" in tensors:
            if weights is None:
                raise AdapterError(
                    f"{adapter.source}: an adapter of type '{adapter.settings.adapter_type}' lies within the "
                    "singular vectors of its model's weights; name the model with --base"
                )
            m = tensors["M_xs"].float()
            u, v = singular_vectors(weights[name], m.shape[0])
            terms[name] = LayerTerm(v.T, scaling * (u @ m), norms)
        else:
            terms[name] = LayerTerm(tensors["lora_A"].float(), scaling * tensors["lora_B"].float(), norms)
    return terms


def adapter_of(
    terms: Mapping[str, LayerTerm],
    adapter_type: str,
    *,
    source: str,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
) -> Adapter:
    """An adapter of terms, all of the rank of the greatest, with alpha equal to the rank.

    Args:
        adapter_type: one with `lora_A` and `lora_B`.
    """
    rank = max((term.rank for term in terms.values()), default=1)
    padded = {name: term.padded(rank) for name, term in terms.items()}
    layers = {name: {"lora_A": t.down, "lora_B": t.up, **t.norms} for name, t in padded.items()}
    settings = AdapterSettings(
        rank=rank, alpha=rank, adapter_type=adapter_type, include=include, exclude=exclude
    )
    return Adapter(settings, layers, source)


def relative(error: float, whole: float) -> float:
    """`error` / `whole`; 0 / 0 is 0."""
    return 0.0 if error == 0 else error / whole if whole else float("inf")


def norm(x: Tensor) -> float:
    """Frobenius norm."""
    return float(torch.linalg.vector_norm(x.double()))
