"""Fill models and pretransforms with stored weights, their base and their adapter."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from stable_audio.checkpoints.adapter_base import (
    is_base,
    merge_adapter,
    other_average,
    require_base,
    with_base,
)
from stable_audio.checkpoints.base_file import BaseFile
from stable_audio.checkpoints.difference import keys_of, read_base, tensors_of
from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.checkpoints.keys import (
    AUTOENCODER_PARTS,
    BACKBONES,
    OURS,
    PRETRANSFORM,
    starts,
    strip,
    to_ours,
    to_pretransform,
)
from stable_audio.checkpoints.scale import adopt_model_scale, adopt_scale
from stable_audio.checkpoints.stored_weights import StoredWeights
from stable_audio.checkpoints.weights import LoadReport, load_weights
from stable_audio.pretransforms.autoencoder import Autoencoder
from stable_audio.transforms.recorded import rebuild


def load_stored(model: nn.Module, stored: StoredWeights, *, partial: bool = False) -> LoadReport:
    """`load_pretrained` for weights that are read already.

    Raises:
        CheckpointError: they do not fit, or the file that they add to is absent or another.
    """
    pretransform = getattr(model, "pretransform", None)
    # An autoencoder may have a pretransform, too, but its file is for the whole autoencoder.
    within = isinstance(pretransform, nn.Module) and not isinstance(model, Autoencoder)
    if within and _is_pretransform_alone(stored, model):
        assert pretransform is not None
        return fill_pretransform(pretransform, stored, partial=partial)
    return fill(model, stored, partial=partial)


def load_base(model: nn.Module, base: BaseFile, referring: Path) -> tuple[list[Tensor], LoadReport]:
    """Load the weights that the file `referring` leaves to another one.

    Returns:
        (the model's parameters and buffers that have their values from there, the report).

    Raises:
        CheckpointError: that file is absent or another.
    """
    report = load_stored(model, read_base(base, referring), partial=True)
    return tensors_of(model, report.loaded), report


def _is_pretransform_alone(stored: StoredWeights, model: nn.Module) -> bool:
    """Whether a file holds an autoencoder, or the weights below `pretransform.`, and nothing else."""
    if stored.is_autoencoder:
        return True
    if starts(stored.tensors, *BACKBONES, "conditioner."):
        return False
    outer = {k for k in _names(model) if not k.startswith(PRETRANSFORM)}
    inner = _names(model.get_submodule(PRETRANSFORM.rstrip(".")))
    return outer.isdisjoint(to_ours(stored.tensors, outer)) and not inner.isdisjoint(
        to_pretransform(stored.tensors, inner)
    )


def fill(model: nn.Module, stored: StoredWeights, *, partial: bool) -> LoadReport:
    """Load weights, and merge the adapter that is stored with them or for them."""
    stored = with_base(stored)
    if stored.adapted is None:
        report = _fill_plain(model, stored, partial=partial)
    else:
        report = _fill_base(model, stored, partial=partial)
    if stored.adapter is None:
        return report
    merge_adapter(model, stored.adapter)
    return replace(
        report, source=f"{_source(stored)}, on {report.source}" if stored.adapted else report.source
    )


def _fill_base(model: nn.Module, stored: StoredWeights, *, partial: bool) -> LoadReport:
    """Load the model that an adapter was trained on."""
    assert stored.adapted is not None
    report = fill(model, stored.adapted, partial=partial)
    if is_base(model, stored):
        return report
    other = other_average(stored)
    if other is not None:
        report = fill(model, other, partial=partial)
    require_base(model, stored)
    return report


def _fill_plain(model: nn.Module, stored: StoredWeights, *, partial: bool) -> LoadReport:
    loaded, base = load_base(model, stored.base, stored.path) if stored.base is not None else ([], None)
    try:
        rebuild(model, stored.transforms)
    except ValueError as error:
        raise CheckpointError(f"{_source(stored)}: its model cannot be rebuilt: {error}") from error
    known, present = _names(model), keys_of(model, loaded)
    tensors = dict(stored.tensors) if starts(stored.tensors, OURS) else to_ours(stored.tensors, known)
    report = load_weights(
        model,
        tensors,
        source=_source(stored),
        weights=stored.weights,
        partial=partial,
        present=present,
    )
    adopt_model_scale(model, stored.config)
    return _on_base(report, base, present, stored.transforms)


def _on_base(
    report: LoadReport,
    base: LoadReport | None,
    present: Collection[str],
    transforms: Sequence[Mapping[str, Any]] = (),
) -> LoadReport:
    """The report of a difference, as one of all weights that were loaded."""
    if base is None:
        return replace(report, transforms=list(transforms))
    return replace(
        report,
        source=f"{report.source}, on {base.source}",
        loaded=sorted({*report.loaded, *present}),
        transforms=[*base.transforms, *transforms],
    )


def fill_pretransform(pretransform: nn.Module, stored: StoredWeights, *, partial: bool) -> LoadReport:
    """Load the weights of a pretransform, of an autoencoder's file or of a whole model's.

    Raises:
        CheckpointError: the file has none, or they do not fit.
    """
    stored = with_base(stored)
    stored = stored.adapted or stored
    loaded, base = [], None
    if stored.base is not None:
        base = fill_pretransform(pretransform, read_base(stored.base, stored.path), partial=True)
        if not starts(stored.tensors, PRETRANSFORM, *AUTOENCODER_PARTS):
            return base
        loaded = tensors_of(pretransform, (k.removeprefix(PRETRANSFORM) for k in base.loaded))
    # An autoencoder may have a pretransform of its own below the same prefix.
    of_model = starts(stored.tensors, PRETRANSFORM) and not stored.is_autoencoder
    tensors = strip(stored.tensors, PRETRANSFORM) if of_model else dict(stored.tensors)
    if not of_model and starts(tensors, *BACKBONES):
        raise CheckpointError(
            f"{_source(stored)}: holds a diffusion model without a pretransform; give the file of an "
            "autoencoder, or of a model with a pretransform"
        )
    tensors, present = to_pretransform(tensors, _names(pretransform)), keys_of(pretransform, loaded)
    report = load_weights(
        pretransform,
        tensors,
        source=f"{_source(stored)}, into the pretransform",
        weights=stored.weights,
        partial=partial,
        present=present,
    )
    adopt_scale(pretransform, stored.config)
    return keys_below(_on_base(report, base, present), PRETRANSFORM)


def keys_below(report: LoadReport, prefix: str) -> LoadReport:
    """The report with the keys of the whole model."""
    return LoadReport(
        report.source,
        report.weights,
        [prefix + k for k in report.loaded],
        [prefix + k for k in report.missing],
        [(prefix + k, a, b) for k, a, b in report.mismatched],
        report.unused,
    )


def _source(stored: StoredWeights) -> str:
    return f"{stored.path} ({stored.kind})"


def _names(module: nn.Module) -> set[str]:
    """Keys of the module's state, and its keys after folding weight norms."""
    keys = set(module.state_dict())
    return keys | {k.removesuffix("_g") for k in keys if k.endswith(".weight_g")}
