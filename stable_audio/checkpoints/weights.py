"""Copy tensors into a module, strictly or in part, with a report of every key."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.checkpoints.keys import (
    as_in,
)
from stable_audio.pretransforms.conv import fold_as_stored
from stable_audio.wording import plural

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadReport:
    """What happened to every key when weights were loaded.

    Attributes:
        source: the file and its kind.
        weights: which weights were loaded, "ema" or "online".
        loaded: keys that were copied.
        missing: keys of the model that the file lacks.
        mismatched: (key, shape in the file, shape in the model).
        unused: keys of the file that the model lacks.
        transforms: records of what was done to the model, because it was done before the weights were saved.
    """

    source: str
    weights: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    transforms: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether the keys of file and model are the same."""
        return not (self.missing or self.mismatched or self.unused)

    def loaded_below(self, prefix: str) -> int:
        """Number of loaded keys that start with `prefix`."""
        return sum(k.startswith(prefix) for k in self.loaded)

    def __str__(self) -> str:
        text = f"{self.source}: {plural(len(self.loaded), 'tensor')} loaded ({self.weights} weights)"
        shapes = [f"{k} {a} in the file, {b} in the model" for k, a, b in self.mismatched]
        parts = [
            _listing("missing from the file", self.missing),
            _listing("of another shape", shapes),
            _listing("not used", self.unused),
        ]
        return "; ".join([text, *(p for p in parts if p)])


def load_weights(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    source: str = "weights",
    weights: str = "online",
    partial: bool = False,
    present: Collection[str] = (),
) -> LoadReport:
    """Copy `tensors`, already in the module's names, into `module`.

    Args:
        partial: load what fits and report the rest instead of failing.
        present: keys of the module that are loaded already; they need not be among `tensors`.

    Raises:
        CheckpointError: a key is missing, unused or of another shape, or no key fits.
    """
    if folded := fold_as_stored(module, tensors.keys()):
        log.info("%s: %s folded there, and hence in the model", source, plural(folded, "weight norm", "are"))
    state = module.state_dict()
    tensors = as_in(state, tensors)
    matches = {k: v for k, v in tensors.items() if k in state and v.shape == state[k].shape}
    report = LoadReport(
        source=source,
        weights=weights,
        loaded=sorted(matches),
        missing=sorted(k for k in state if k not in tensors and k not in present),
        mismatched=sorted(
            (k, tuple(v.shape), tuple(state[k].shape))
            for k, v in tensors.items()
            if k in state and v.shape != state[k].shape
        ),
        unused=sorted(k for k in tensors if k not in state),
    )
    if not any(v.numel() for v in matches.values()) and state and not present:
        raise CheckpointError(_nothing_fits(report, tensors, state))
    if not report.complete and not partial:
        raise CheckpointError(
            f"{report}. The file belongs to another config; use that, or load what fits with --partial"
        )
    if any(v.is_meta for v in state.values()):
        # The model has no memory to copy into: the stored tensors become its weights, in its types.
        matches = {k: v.to(state[k].dtype) for k, v in matches.items()}
        module.load_state_dict(matches, strict=False, assign=True)
    else:
        module.load_state_dict(matches, strict=False)
    return report


def _nothing_fits(report: LoadReport, tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    if report.mismatched:
        return f"{report}. Nothing fits this model"
    theirs, ours = (", ".join(list(names)[:2]) for names in (tensors, state))
    return (
        f"{report.source}: none of its {plural(len(tensors), 'tensor')} belongs to this model, which has "
        f"another architecture or layout (it has {theirs}, ...; the model has {ours}, ...). Nothing fits "
        "this model"
    )


def _listing(what: str, names: list[str]) -> str:
    if not names:
        return ""
    text = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{len(names)} {what}: {text}"
