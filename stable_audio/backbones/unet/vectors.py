"""How vectors act in the U-Net: time and the conditioners of the global slot, each by its own mechanism."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from stable_audio.backbones.unet.conditioning import dropped

TIME = "time"
"""The entry of `mechanisms` that is no conditioner."""

MechanismName = Literal["adaptive", "sum", "concat", "cross_attention"]


@dataclass(frozen=True)
class Mechanism:
    """How one vector acts.

    Attributes:
        mechanism: `adaptive`: scales and shifts the second norm of every residual block; `sum`: added
            between the convolutions of every residual block; `concat`: repeated over positions as input
            channels; `cross_attention`: tokens of cross-attention.
        merge: how it joins the others of the same mechanism. `sum`: those with it are brought to the width of
            the time vector and added up; `concat`: it stands beside them (a token of its own).
        dim: features of the conditioner; the time has its own (`time.hidden`).
        dropout: probability of dropping it in training, item by item; a dropped one is zeros.
    """

    mechanism: MechanismName
    merge: Literal["sum", "concat"] = "sum"
    dim: int = 0
    dropout: float = 0.0


@dataclass(frozen=True)
class Acting:
    """What the mechanisms get.

    Attributes:
        first: first vector (b e) that residual blocks read.
        second: second vector (b e) that residual blocks read.
        planes: vector (b c) that becomes input channels, the same at every position.
        tokens: (b l d), tokens beside those of the cross_attn slot.
    """

    first: Tensor | None
    second: Tensor | None = None
    planes: Tensor | None = None
    tokens: Tensor | None = None


class Vectors(nn.Module):
    """The time vector and the global slot -> `Acting`.

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
            shared = self._named(kind, "sum")
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
        """(features, adaptive) of the vectors that residual blocks read; at most two."""
        kinds = [k for k in self.kinds if k in ("adaptive", "sum")]
        return [(self.width(k), k == "adaptive") for k in kinds]

    def width(self, kind: str) -> int:
        """Features of what a mechanism gets; 0 where nothing uses it."""
        return sum(self._widths(kind))

    def forward(self, time: Tensor, globals_: Tensor | None) -> Acting:
        parts = {TIME: time}
        if globals_ is not None:
            parts.update(zip(self.widths, globals_.split(list(self.widths.values()), dim=1)))
        if self.training:
            parts = {n: dropped(v, p) if (p := self.entries[n].dropout) else v for n, v in parts.items()}
        acting = {kind: self._merged(kind, parts) for kind in self.kinds}
        blocks = [torch.cat(v, dim=1) for k, v in acting.items() if k in ("adaptive", "sum")]
        tokens = [layer(v) for layer, v in zip(self.to_tokens, acting.get("cross_attention", ()))]
        return Acting(
            first=blocks[0] if blocks else None,
            second=blocks[1] if len(blocks) > 1 else None,
            planes=torch.cat(acting["concat"], dim=1) if "concat" in acting else None,
            tokens=torch.stack(tokens, dim=1) if tokens else None,
        )

    def _merged(self, kind: str, parts: Mapping[str, Tensor]) -> list[Tensor]:
        """The sum, where there is one, and what stands beside it."""
        shared = [parts[n] for n in self._named(kind, "sum")]
        layers = iter(self.projections[kind].children())
        if len(shared) > 1:
            named = zip(self._named(kind, "sum"), shared)
            shared = [torch.stack([v if n == TIME else next(layers)(v) for n, v in named]).sum(dim=0)]
        return [*shared, *(parts[n] for n in self._named(kind, "concat"))]

    def _widths(self, kind: str) -> list[int]:
        shared, beside = self._named(kind, "sum"), self._named(kind, "concat")
        common = self._size(shared[0]) if len(shared) == 1 else self.time_features
        return [*([common] if shared else []), *(self._size(n) for n in beside)]

    def _size(self, name: str) -> int:
        return self.time_features if name == TIME else self.entries[name].dim

    def _named(self, kind: str, merge: str) -> list[str]:
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
