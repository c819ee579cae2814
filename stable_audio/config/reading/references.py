"""Resolve the weights that a model file names: `"path"` in pretransform sections, which is replaced by the
config found there, and `"pretransform_ckpt_path"` of conditioners."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stable_audio.config.reporting.problems import Loc, Problem, json_path
from stable_audio.stored.models import locate, stored_config

PRETRANSFORM = "pretransform"
CONFIG, WEIGHTS = "pretransform_config", "pretransform_ckpt_path"
"""Keys of a conditioner that encodes sounds."""


@dataclass
class Expanded:
    """Outcome of `expand`.

    Attributes:
        weights: module of the model, such as `pretransform` -> absolute path or hub id of its weights.
        problems: references to paths that do not exist.
        warnings: references to files that were made for another sample rate, or may be missing.
        unknown: sections whose config could not be filled in.
    """

    weights: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    unknown: list[Loc] = field(default_factory=list)

    def hides(self, problem: Problem) -> bool:
        """Whether a problem is only the empty config of a section whose path is at fault."""
        return any(problem.path.startswith(json_path((*loc, "config"))) for loc in self.unknown)


def expand(data: dict[str, Any], base: Path) -> Expanded:
    """Fill the pretransforms of a model file (changed in place) that are named by path.

    Args:
        base: folder that relative paths start from.
    """
    outcome = Expanded()
    for loc, module, section in list(_sections(data)):
        if not isinstance(section.get("path"), str):
            continue
        try:
            outcome.weights[module] = locate(section["path"], base)
            if "config" not in section:
                _fill(section, outcome.weights[module], data, loc, outcome)
            section.pop("path")
        except (ValueError, OSError, ImportError) as error:
            outcome.problems.append(Problem(json_path((*loc, "path")), " ".join(str(error).split())))
            outcome.unknown.append(loc)
    for loc, module, config in _sound_conditioners(data):
        _locate_weights(config, loc, module, base, outcome)
    return outcome


def _locate_weights(config: dict[str, Any], loc: Loc, module: str, base: Path, outcome: Expanded) -> None:
    """Make the path absolute and record it. It stays in the config: checkpoints may lack these weights."""
    if isinstance(config.get(WEIGHTS), str):
        try:
            outcome.weights[module] = config[WEIGHTS] = locate(config[WEIGHTS], base)
        except ValueError as error:
            problem = Problem(json_path((*loc, WEIGHTS)), str(error))
            # A checkpoint with these weights is complete without the file that they once came from.
            (outcome.warnings if config.get("save_pretransform") else outcome.problems).append(problem)
    elif module in outcome.weights:
        config[WEIGHTS] = outcome.weights[module]


def _sections(data: dict[str, Any]) -> Iterator[tuple[Loc, str, dict[str, Any]]]:
    """Place, module and content of every pretransform section, from the outside to the inside."""
    yield from _nested(data.get("model"), PRETRANSFORM, ("model",), PRETRANSFORM)
    for loc, module, config in _sound_conditioners(data):
        yield from _nested(config, CONFIG, loc, module)


def _nested(holder: Any, key: str, loc: Loc, module: str) -> Iterator[tuple[Loc, str, dict[str, Any]]]:
    while isinstance(holder, dict) and isinstance(holder.get(key), dict):
        section = holder[key]
        loc = (*loc, key)
        yield loc, module, section
        holder, loc, key = section.get("config"), (*loc, "config"), PRETRANSFORM
        module = f"{module}.model.{PRETRANSFORM}"


def _sound_conditioners(data: dict[str, Any]) -> Iterator[tuple[Loc, str, dict[str, Any]]]:
    """Place, module and `config` of every conditioner with a pretransform of its own."""
    model = data.get("model")
    conditioning = model.get("conditioning") if isinstance(model, dict) else None
    entries = conditioning.get("configs") if isinstance(conditioning, dict) else None
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        config = entry.get("config") if isinstance(entry, dict) else None
        if isinstance(config, dict) and isinstance(config.get(CONFIG), dict):
            module = f"conditioner.conditioners.{entry.get('id')}.{PRETRANSFORM}"
            yield ("model", "conditioning", "configs", index, "config"), module, config


def _fill(section: dict[str, Any], located: str, data: dict[str, Any], loc: Loc, outcome: Expanded) -> None:
    file_config, folder = stored_config(located)
    inner = expand(file_config, folder)
    if inner.problems:
        raise ValueError(f"{located}: {inner.problems[0]}")
    pretransform = _pretransform_of(file_config, located)
    if pretransform.get("type") != section.get("type"):
        raise ValueError(
            f"{located} holds a pretransform of type '{pretransform.get('type')}', but type is "
            f"'{section.get('type')}'"
        )
    rates = data.get("sample_rate"), file_config.get("sample_rate")
    if None not in rates and rates[0] != rates[1]:
        message = f"made for {rates[1]} Hz, but sample_rate is {rates[0]}"
        outcome.warnings.append(Problem(json_path((*loc, "path")), message))
    section.update({**pretransform, **section})


def _pretransform_of(file_config: dict[str, Any], located: str) -> dict[str, Any]:
    """The pretransform section of a model that takes this file as its pretransform."""
    model = file_config.get("model")
    if isinstance(model, dict) and file_config.get("model_type") == "autoencoder":
        return {"type": "autoencoder", "config": model}
    section = model.get(PRETRANSFORM) if isinstance(model, dict) else None
    if not isinstance(section, dict):
        raise ValueError(f"{located} holds neither an autoencoder nor a model with a pretransform")
    return {k: v for k, v in section.items() if k not in ("hash", "enable_grad")}
