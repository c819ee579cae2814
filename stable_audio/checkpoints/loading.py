"""Load stored weights into models, strictly by default or in part, always with a report."""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
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
from stable_audio.checkpoints.errors import CheckpointError, NoConfigError
from stable_audio.checkpoints.files import StoredWeights, read_checkpoint
from stable_audio.checkpoints.keys import (
    AUTOENCODER_PARTS,
    BACKBONES,
    OURS,
    PRETRANSFORM,
    as_in,
    starts,
    strip,
    to_ours,
    to_pretransform,
)
from stable_audio.checkpoints.scale import adopt_model_scale, adopt_scale
from stable_audio.model import DiffusionModel
from stable_audio.nn.unfilled import with_stored_weights
from stable_audio.pretransforms.autoencoder import Autoencoder
from stable_audio.pretransforms.conv import fold_as_stored
from stable_audio.transforms.recorded import rebuild

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
        text = f"{self.source}: {len(self.loaded)} tensors loaded ({self.weights} weights)"
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
        log.info("%s: %d weight norms are folded there, and hence in the model", source, folded)
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


def load_model(
    path: str | Path | StoredWeights,
    *,
    config: Any = None,
    device: torch.device | str = "cpu",
    use_ema: bool = True,
    partial: bool = False,
    lenient: bool = False,
    pretransform: str | Path | None = None,
) -> tuple[nn.Module, Any]:
    """Build a model from a checkpoint and its config, with weights, in eval mode.

    Where a run has changed the model before it trained it (`$.training.transforms`), the model is changed
    likewise; where its file holds a difference, all other weights come from the file that it names.

    Args:
        path: a file of any layout, or the folder of a run or of a published model; or what `read_checkpoint`
            has read from one.
        config: path, dictionary or loaded config; default: the one inside the file or beside it.
        use_ema: the averaged weights where the file has both.
        partial: as for `load_weights`.
        lenient: treat unknown keys of the config as warnings.
        pretransform: a file with the weights of the pretransform; all others come from `path`.

    Returns:
        (model, config).

    Raises:
        CheckpointError: unreadable file, no config, or weights that do not fit it.
    """
    return load_reported(
        path,
        config=config,
        device=device,
        use_ema=use_ema,
        partial=partial,
        lenient=lenient,
        pretransform=pretransform,
    )[:2]


def load_reported(
    path: str | Path | StoredWeights,
    *,
    config: Any = None,
    device: torch.device | str = "cpu",
    use_ema: bool = True,
    partial: bool = False,
    lenient: bool = False,
    pretransform: str | Path | None = None,
) -> tuple[nn.Module, Any, LoadReport]:
    """`load_model`, with the report of what was loaded, which also lists the transforms of the model.

    Raises:
        CheckpointError: see `load_model`.
    """
    from stable_audio.config import load_config
    from stable_audio.factory import create_model_from_config

    stored = path if isinstance(path, StoredWeights) else read_checkpoint(path, use_ema=use_ema)
    stored = with_base(stored, use_ema=use_ema)
    source = config if config is not None else stored.config
    if source is None:
        raise NoConfigError(f"{stored.path}: no config inside the file or beside it; give --model-config")
    inside = f"{stored.path}, config" if config is None else None
    if inside is not None:
        loaded_config = stored_model_config(source, source_name=inside, lenient=lenient)
    elif isinstance(source, (str, Path, Mapping)):
        loaded_config = load_config(source, lenient=lenient)
    else:
        loaded_config = source

    def load(model: nn.Module) -> LoadReport:
        report = _fill(model, stored, partial=partial or pretransform is not None)
        if pretransform is not None:
            _require_other_weights(report, partial)
            load_pretransform(model, pretransform)
        load_unsaved(model, loaded_config.weights, use_ema=use_ema)
        return report

    model, report = with_stored_weights(
        lambda unfilled: create_model_from_config(loaded_config, unfilled=unfilled), load
    )
    log.info("%s", report)
    if isinstance(model, DiffusionModel):
        model.loaded_from = stored.path.name
    return model.to(device).eval(), loaded_config, report


def stored_model_config(config: Mapping[str, Any], *, source_name: str, lenient: bool = False) -> Any:
    """The model config of a checkpoint, for use of the model.

    How a published model was trained may be what this program cannot do, such as adversarial post-training.
    The weights need nothing of it: a `training` section with mistakes is left out, with a warning.

    Raises:
        ConfigError: with every mistake, if any is outside of `training`.
    """
    from stable_audio.config import ConfigError, load_config

    # Optimizers are built to check them, which imports torch's compiler: half of the time of a short command.
    load = functools.partial(
        load_config, lenient=lenient, source_name=source_name, skip_rules=("optimizer_options",)
    )
    try:
        return load(config)
    except ConfigError as error:
        if not all(str(problem).startswith("$.training") for problem in error.problems):
            raise
        others = {key: value for key, value in config.items() if key != "training"}
        loaded = load(others)
        log.warning("the section 'training' is left out, since it cannot be used here: %s", error)
        return loaded


def load_pretrained(
    model: nn.Module, path: str | Path, *, use_ema: bool = True, partial: bool = False
) -> LoadReport:
    """Start from existing weights: a whole model, or an autoencoder, which goes into the pretransform.

    Raises:
        CheckpointError: the file does not fit; see `load_weights`.
    """
    return load_stored(model, read_checkpoint(path, use_ema=use_ema), partial=partial)


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
        return _fill_pretransform(pretransform, stored, partial=partial)
    return _fill(model, stored, partial=partial)


def load_pretransform(
    model: nn.Module, path: str | Path | StoredWeights, *, use_ema: bool = True, partial: bool = False
) -> LoadReport:
    """Load the pretransform from an autoencoder's checkpoint or from that of a whole model.

    Args:
        path: as for `load_model`.
        use_ema: as for `load_model`.
        partial: as for `load_weights`.

    Raises:
        CheckpointError: the model has no pretransform with weights, or the file does not fit it.
    """
    pretransform = getattr(model, "pretransform", None)
    if not isinstance(pretransform, nn.Module) or not pretransform.state_dict():
        file = path.path if isinstance(path, StoredWeights) else path
        raise CheckpointError(f"{file}: the model has no pretransform with weights to load this into")
    stored = path if isinstance(path, StoredWeights) else read_checkpoint(path, use_ema=use_ema)
    return _fill_pretransform(pretransform, stored, partial=partial)


def load_named(model: nn.Module, weights: Mapping[str, str], *, use_ema: bool = True) -> list[LoadReport]:
    """Load the pretransforms that a config names by path; see `ModelConfig.weights`.

    Args:
        weights: module of the model -> absolute path or hub id.

    Raises:
        CheckpointError: a file no longer exists, or does not fit its own config.
    """
    from stable_audio.stored.models import weights_file

    reports = []
    for name, located in weights.items():
        try:
            path = weights_file(located)
        except (ValueError, OSError, ImportError) as error:
            raise CheckpointError(f"the weights of the {name}: {error}") from error
        stored = read_checkpoint(path, use_ema=use_ema)
        report = _fill_pretransform(model.get_submodule(name), stored, partial=False)
        reports.append(_below(report, name.removesuffix(PRETRANSFORM.rstrip("."))))
    return reports


def load_unsaved(model: nn.Module, weights: Mapping[str, str], *, use_ema: bool = True) -> list[LoadReport]:
    """As `load_named`, for those weights that are not in the model's checkpoints."""
    state = model.state_dict()
    return load_named(
        model, {k: v for k, v in weights.items() if not starts(state, k + ".")}, use_ema=use_ema
    )


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


def _names(module: nn.Module) -> set[str]:
    """Keys of the module's state, and its keys after folding weight norms."""
    keys = set(module.state_dict())
    return keys | {k.removesuffix("_g") for k in keys if k.endswith(".weight_g")}


def _fill(model: nn.Module, stored: StoredWeights, *, partial: bool) -> LoadReport:
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
    report = _fill(model, stored.adapted, partial=partial)
    if is_base(model, stored):
        return report
    other = other_average(stored)
    if other is not None:
        report = _fill(model, other, partial=partial)
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


def _require_other_weights(report: LoadReport, partial: bool) -> None:
    """Raise CheckpointError if other weights than the pretransform's are missing or do not fit."""
    elsewhere = [key for key in report.missing if not key.startswith(PRETRANSFORM)]
    if (elsewhere or report.mismatched or report.unused) and not partial:
        raise CheckpointError(f"{report}. The file belongs to another config")


def _fill_pretransform(pretransform: nn.Module, stored: StoredWeights, *, partial: bool) -> LoadReport:
    stored = with_base(stored)
    stored = stored.adapted or stored
    loaded, base = [], None
    if stored.base is not None:
        base = _fill_pretransform(pretransform, read_base(stored.base, stored.path), partial=True)
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
    return _below(_on_base(report, base, present), PRETRANSFORM)


def _below(report: LoadReport, prefix: str) -> LoadReport:
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


def _nothing_fits(report: LoadReport, tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    if report.mismatched:
        return f"{report}. Nothing fits this model"
    theirs, ours = (", ".join(list(names)[:2]) for names in (tensors, state))
    return (
        f"{report.source}: none of its {len(tensors)} tensors belongs to this model, which has another "
        f"architecture or layout (it has {theirs}, ...; the model has {ours}, ...). Nothing fits this model"
    )


def _listing(what: str, names: list[str]) -> str:
    if not names:
        return ""
    text = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{len(names)} {what}: {text}"
