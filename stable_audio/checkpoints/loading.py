"""Load stored weights into models, strictly by default or in part, always with a report."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stable_audio.checkpoints.adapter_base import (
    with_base,
)
from stable_audio.checkpoints.errors import CheckpointError, NoConfigError
from stable_audio.checkpoints.files import StoredWeights, read_checkpoint
from stable_audio.checkpoints.filling import fill, fill_pretransform, keys_below, load_stored
from stable_audio.checkpoints.keys import (
    PRETRANSFORM,
    starts,
)
from stable_audio.checkpoints.weights import LoadReport
from stable_audio.model import DiffusionModel
from stable_audio.nn.unfilled import with_stored_weights
from stable_audio.stored.hub_names import SCHEME

log = logging.getLogger(__name__)


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
        report = fill(model, stored, partial=partial or pretransform is not None)
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
    return fill_pretransform(pretransform, stored, partial=partial)


def load_named(model: nn.Module, weights: Mapping[str, str], *, use_ema: bool = True) -> list[LoadReport]:
    """Load the pretransforms that a config names by path; see `ModelConfig.weights`.

    Args:
        weights: module of the model -> absolute path or hub id.

    Raises:
        CheckpointError: a file no longer exists, or does not fit its own config.
    """
    reports = []
    for name, located in weights.items():
        try:
            stored = read_checkpoint(_found(located), use_ema=use_ema)
        except (ValueError, OSError) as error:
            raise CheckpointError(f"the weights of the {name}: {error}") from error
        report = fill_pretransform(model.get_submodule(name), stored, partial=False)
        reports.append(keys_below(report, name.removesuffix(PRETRANSFORM.rstrip("."))))
    return reports


def _found(located: str) -> str:
    """What `read_checkpoint` takes, whatever lies in the working directory under the name of a hub id."""
    with_scheme = located.startswith(SCHEME[:-1])  # of whose slashes a path keeps one
    return located if Path(located).is_absolute() or with_scheme else SCHEME + located


def load_unsaved(model: nn.Module, weights: Mapping[str, str], *, use_ema: bool = True) -> list[LoadReport]:
    """As `load_named`, for those weights that are not in the model's checkpoints."""
    state = model.state_dict()
    return load_named(
        model, {k: v for k, v in weights.items() if not starts(state, k + ".")}, use_ema=use_ema
    )


def _require_other_weights(report: LoadReport, partial: bool) -> None:
    """Raise CheckpointError if other weights than the pretransform's are missing or do not fit."""
    elsewhere = [key for key in report.missing if not key.startswith(PRETRANSFORM)]
    if (elsewhere or report.mismatched or report.unused) and not partial:
        raise CheckpointError(f"{report}. The file belongs to another config")
