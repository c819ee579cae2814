"""Files and dicts -> validated configurations, or every mistake at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Union

from stable_audio.config.context import Context
from stable_audio.config.dataset import dataset_models
from stable_audio.config.facts import gather
from stable_audio.config.leaf import Leaf
from stable_audio.config.problems import ConfigError, Problem, did_you_mean
from stable_audio.config.reading import plain, read_json
from stable_audio.config.references import expand
from stable_audio.config.rules import HINTS, RULES, check_rules
from stable_audio.config.top import MODEL_TYPES, ModelConfig
from stable_audio.config.validation import Checked, check_structure
from stable_audio.shipped import file_or_shipped, shipped

log = logging.getLogger(__name__)
Source = Union[str, "os.PathLike[str]", Mapping[str, Any]]


def load_config(
    source: Source,
    *,
    lenient: bool = False,
    extra_ids: Sequence[str] = (),
    skip_rules: Sequence[str] = (),
    source_name: str | None = None,
) -> ModelConfig:
    """Load a model file, in the format of stable-audio-tools.

    A pretransform named by `path` gets the config found there; its weights are loaded by who needs them,
    see `ModelConfig.weights`.

    Args:
        source: path of a JSON file, name of one that comes with the package, or its content; a dict is
            not changed.
        lenient: unknown keys become warnings.
        extra_ids: ids wired to slots that the caller supplies as ready tensors.
        skip_rules: names in `rules.RULES` that need not hold.
        source_name: what messages call a dict, such as the checkpoint that it came from.

    Raises:
        ConfigError: with every mistake of the file.
    """
    source = source if isinstance(source, Mapping) else _file(source, "model")
    data, name = _data(source, source_name)
    named = expand(data, Path() if isinstance(source, Mapping) else Path(source).parent)
    checked = check_structure(data, tag="model_type", models=MODEL_TYPES, lenient=lenient)
    facts = gather(checked.data)
    context = Context(checked.data, facts, tuple(extra_ids))
    related = [*facts.problems, *check_rules(context, RULES, skip=skip_rules)]
    checked.warnings += check_rules(context, HINTS)
    checked.problems += [p for p in related if p not in checked.problems]
    checked.problems = [*named.problems, *(p for p in checked.problems if not named.hides(p))]
    checked.warnings += [*named.warnings, *checked.untrainable]
    config = _result(checked, name)
    config._untrainable = tuple(checked.untrainable)
    config._weights = named.weights
    return config


def load_dataset_config(source: Source, *, lenient: bool = False) -> Leaf:
    """Load a dataset file; `dataset.as_dict(config)` gives back its JSON form.

    Raises:
        ConfigError: with every mistake of the file.
    """
    data, name = _data(source if isinstance(source, Mapping) else _file(source, "dataset"))
    return _result(check_structure(data, tag="dataset_type", models=dataset_models(), lenient=lenient), name)


def _file(source: str | os.PathLike[str], kind: str) -> str | os.PathLike[str]:
    """The file called `source`, or the one of that name that comes with the package."""
    found = file_or_shipped(source, kind)
    if not os.path.exists(found) and not os.path.splitext(found)[1]:
        hint = did_you_mean(os.fspath(source), shipped(kind))
        listed = hint if hint.startswith("did") else "`stable-audio configs` lists those"
        problem = Problem("$", f"neither a file nor a {kind} config that comes with the package; {listed}")
        raise ConfigError([problem], os.fspath(source))
    return found


def _data(source: Source, source_name: str | None = None) -> tuple[dict[str, Any], str]:
    if isinstance(source, Mapping):
        name = source_name or "config"
        return plain(dict(source), source=name), name
    return read_json(source), os.fspath(source)


def _result(checked: Checked[Any], name: str) -> Any:
    if checked.warnings:
        listed = "; ".join(str(w) for w in checked.warnings)
        log.warning("%s: %s", name, listed)
    if checked.problems:
        raise ConfigError(list(dict.fromkeys(checked.problems)), name)
    return checked.config
