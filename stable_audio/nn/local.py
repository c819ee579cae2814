"""Conditioning that is added to the tokens of the same frames in every block (Stable Audio 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.nn.embeddings import ProjectionMLP


@dataclass(frozen=True)
class LocalWidths:
    """Features per token of local conditioning.

    Attributes:
        joined: width of what goes through one embedding; 0 for none.
        by_id: id -> width of what has an embedding of its own.
    """

    joined: int = 0
    by_id: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LocalTokens:
    """Local conditioning of one forward pass, for the last n tokens of the sequence or for those at `places`.

    Attributes:
        joined: (b n c), or (1 r c) in a packed row.
        by_id: id -> (b n c); ids that are absent add nothing.
        places: (r,) the tokens of a packed row that belong to frames; None: the last n ones.
    """

    joined: Tensor | None = None
    by_id: Mapping[str, Tensor] = field(default_factory=dict)
    places: Tensor | None = None

    def added_to(self, x: Tensor, embedded: Tensor) -> Tensor:
        """x (b l d) with `embedded` (b n d) added to the tokens of frames; the tokens before get nothing."""
        if self.places is not None:
            return x.index_add(1, self.places, embedded.to(x.dtype))
        return x + F.pad(embedded, (0, 0, x.shape[1] - embedded.shape[1], 0))


def local_embedding(dim_in: int, dim: int) -> ProjectionMLP:
    """The embedding of one kind of local conditioning in one block; it starts at zero."""
    embedding = ProjectionMLP(dim_in, dim, bias=True)
    for parameter in embedding[2].parameters():
        nn.init.zeros_(parameter)
    return embedding
