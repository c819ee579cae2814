"""Vectors in the U-Net: time and the conditioners of the global slot, each with its own mechanism."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from stable_audio.backbones.unet.conditioning import drop_items

TIME = "time"
"""The entry of `mechanisms` for t, which is no conditioner."""

MechanismName = Literal["adaptive", "sum", "concat", "cross_attention"]


@dataclass(frozen=True)
class Mechanism:
    """Use of one vector.

    Attributes:
        mechanism: `adaptive`: scales and shifts the second norm of every residual block; `sum`: added
            between the convolutions of every residual block; `concat`: repeated over positions as input
            channels; `cross_attention`: tokens of cross-attention.
        merge: merging with other vectors of the same mechanism. `sum`: all with this value are projected to
            the width of the time vector and added up; `concat`: it is concatenated (as a separate token).
        dim: features of the conditioner; not for `time`, whose width is `time.hidden`.
        dropout: probability of replacing it by zeros in training, for each item.
    """

    mechanism: MechanismName
    merge: Literal["sum", "concat"] = "sum"
    dim: int = 0
    dropout: float = 0.0


@dataclass(frozen=True)
class MechanismInputs:
    """The inputs of the mechanisms.

    Attributes:
        first: first vector (b e) of residual blocks.
        second: second vector (b e) of residual blocks.
        planes: vector (b c) that becomes input channels, repeated at every position.
        tokens: (b l d), tokens besides those of the cross_attn slot.
    """

    first: Tensor | None
    second: Tensor | None = None
    planes: Tensor | None = None
    tokens: Tensor | None = None


class Vectors(nn.Module):
    """The time vector and the global slot -> `MechanismInputs`.

    Args:
        mechanisms: by conditioner id, in the order of the slot, and `time`; time is summed by default.
        time_features: width of the time vector.
        token_dim: width of the tokens of cross-attention.

    Raises:
        ValueError: widths or probabilities out of range.
    """

    def __init__(self, mechanisms: Mapping[str, Mechanism], time_features: int, token_dim: int) -> None:
        super().__init__()
        _check(mechanisms)
        self.entries = {TIME: Mechanism("sum"), **mechanisms}
        self.time_features = time_features
        self.projections = nn.ModuleDict()
        for kind in self.kinds:
            shared = self._ids_of(kind, "sum")
            alone = len(shared) == 1
            self.projections[kind] = nn.ModuleList(
                nn.Linear(self.entries[n].dim, time_features, bias=False)
                for n in shared
                if n != TIME and not alone
            )
        self.to_tokens = nn.ModuleList(nn.Linear(w, token_dim) for w in self._widths("cross_attention"))

    @property
    def kinds(self) -> list[str]:
        """The mechanisms in use; that of time is the first."""
        return list(dict.fromkeys([self.entries[TIME].mechanism, *self._mechanisms()]))

    @property
    def widths(self) -> dict[str, int]:
        """Features of each conditioner of the global slot, by id, in order."""
        return {name: m.dim for name, m in self.entries.items() if name != TIME}

    @property
    def dim(self) -> int:
        """Features of the global slot."""
        return sum(self.widths.values())

    @property
    def blocks(self) -> list[tuple[int, bool]]:
        """(features, adaptive) of the vectors of residual blocks; at most two."""
        kinds = [k for k in self.kinds if k in ("adaptive", "sum")]
        return [(self.width(k), k == "adaptive") for k in kinds]

    def width(self, kind: str) -> int:
        """Features of the input of a mechanism; 0 if no vector uses it."""
        return sum(self._widths(kind))

    def forward(self, time: Tensor, global_vector: Tensor | None) -> MechanismInputs:
        parts = {TIME: time}
        if global_vector is not None:
            parts.update(zip(self.widths, global_vector.split(list(self.widths.values()), dim=1)))
        if self.training:
            parts = {n: drop_items(v, p) if (p := self.entries[n].dropout) else v for n, v in parts.items()}
        merged = {kind: self._merged(kind, parts) for kind in self.kinds}
        blocks = [torch.cat(v, dim=1) for k, v in merged.items() if k in ("adaptive", "sum")]
        tokens = [layer(v) for layer, v in zip(self.to_tokens, merged.get("cross_attention", ()))]
        return MechanismInputs(
            first=blocks[0] if blocks else None,
            second=blocks[1] if len(blocks) > 1 else None,
            planes=torch.cat(merged["concat"], dim=1) if "concat" in merged else None,
            tokens=torch.stack(tokens, dim=1) if tokens else None,
        )

    def _merged(self, kind: str, parts: Mapping[str, Tensor]) -> list[Tensor]:
        """The sum, if there is one, followed by the vectors to concatenate."""
        shared = [parts[n] for n in self._ids_of(kind, "sum")]
        layers = iter(self.projections[kind].children())
        if len(shared) > 1:
            pairs = zip(self._ids_of(kind, "sum"), shared)
            shared = [torch.stack([v if n == TIME else next(layers)(v) for n, v in pairs]).sum(dim=0)]
        return [*shared, *(parts[n] for n in self._ids_of(kind, "concat"))]

    def _widths(self, kind: str) -> list[int]:
        shared, beside = self._ids_of(kind, "sum"), self._ids_of(kind, "concat")
        common = self._size(shared[0]) if len(shared) == 1 else self.time_features
        return [*([common] if shared else []), *(self._size(n) for n in beside)]

    def _size(self, name: str) -> int:
        return self.time_features if name == TIME else self.entries[name].dim

    def _ids_of(self, kind: str, merge: str) -> list[str]:
        return [n for n, m in self.entries.items() if m.mechanism == kind and m.merge == merge]

    def _mechanisms(self) -> list[str]:
        return [m.mechanism for m in self.entries.values()]


def _check(mechanisms: Mapping[str, Mechanism]) -> None:
    for name, entry in mechanisms.items():
        if name == TIME and entry.dim:
            raise ValueError(
                f"mechanisms.time has the width of time.hidden, so it takes no dim ({entry.dim})"
            )
        if name != TIME and entry.dim < 1:
            raise ValueError(f"mechanisms.{name}.dim must be the features of that conditioner, at least 1")
        if not 0 <= entry.dropout <= 1:
            raise ValueError(f"mechanisms.{name}.dropout must be between 0 and 1, found {entry.dropout}")
