"""Weights named in a model file: `"path"` in pretransform sections, whose config takes its place, and
`"pretransform_ckpt_path"` of conditioners."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stable_audio.config.reporting.problems import Loc, Problem, json_path
from stable_audio.stored.models import locate, stored_config

PRETRANSFORM = "pretransform"
OWN, WEIGHTS = "pretransform_config", "pretransform_ckpt_path"
"""Keys of a conditioner that encodes sounds."""


@dataclass
class Expanded:
    """What was done.

    Attributes:
        weights: module of the model, such as `pretransform` -> absolute path or hub id of its weights.
        problems: references to paths that do not exist.
        warnings: references to files that were made for something else.
        unknown: sections that could not be filled.
    """

    weights: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    unknown: list[Loc] = field(default_factory=list)

    def hides(self, problem: Problem) -> bool:
        """Whether a problem only says that a section is empty whose path is at fault."""
        return any(problem.path.startswith(json_path((*loc, "config"))) for loc in self.unknown)


def expand(data: dict[str, Any], base: Path) -> Expanded:
    """Fill the pretransforms of a model file (changed in place) that are named by path.

    Args:
        base: folder that relative paths start from.
    """
    done = Expanded()
    for loc, module, section in list(_sections(data)):
        if not isinstance(section.get("path"), str):
            continue
        try:
            done.weights[module] = locate(section["path"], base)
            if "config" not in section:
                _fill(section, done.weights[module], data, loc, done)
            section.pop("path")
        except (ValueError, OSError, ImportError) as error:
            done.problems.append(Problem(json_path((*loc, "path")), " ".join(str(error).split())))
            done.unknown.append(loc)
    for loc, module, config in _sound_conditioners(data):
        _locate_weights(config, loc, module, base, done)
    return done


def _locate_weights(config: dict[str, Any], loc: Loc, module: str, base: Path, done: Expanded) -> None:
    """Make the path absolute and note it. It stays in the config: checkpoints may lack these weights."""
    if isinstance(config.get(WEIGHTS), str):
        try:
            done.weights[module] = config[WEIGHTS] = locate(config[WEIGHTS], base)
        except ValueError as error:
            problem = Problem(json_path((*loc, WEIGHTS)), str(error))
            # A checkpoint with these weights is complete without the file that they once came from.
            (done.warnings if config.get("save_pretransform") else done.problems).append(problem)
    elif module in done.weights:
        config[WEIGHTS] = done.weights[module]


def _sections(data: dict[str, Any]) -> Iterator[tuple[Loc, str, dict[str, Any]]]:
    """Place, module and content of every pretransform section, from the outside to the inside."""
    yield from _nested(data.get("model"), PRETRANSFORM, ("model",), PRETRANSFORM)
    for loc, module, config in _sound_conditioners(data):
        yield from _nested(config, OWN, loc, module)


def _nested(holder: Any, key: str, loc: Loc, module: str) -> Iterator[tuple[Loc, str, dict[str, Any]]]:
    while isinstance(holder, dict) and isinstance(holder.get(key), dict):
        section = holder[key]
        loc = (*loc, key)
        yield loc, module, section
        holder, loc, key = section.get("config"), (*loc, "config"), PRETRANSFORM
        module = f"{module}.model.{PRETRANSFORM}"


def _sound_conditioners(data: dict[str, Any]) -> Iterator[tuple[Loc, str, dict[str, Any]]]:
    """Place, module and `config` of the pretransforms that conditioners have of their own."""
    model = data.get("model")
    conditioning = model.get("conditioning") if isinstance(model, dict) else None
    entries = conditioning.get("configs") if isinstance(conditioning, dict) else None
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        config = entry.get("config") if isinstance(entry, dict) else None
        if isinstance(config, dict) and isinstance(config.get(OWN), dict):
            module = f"conditioner.conditioners.{entry.get('id')}.{PRETRANSFORM}"
            yield ("model", "conditioning", "configs", index, "config"), module, config


def _fill(section: dict[str, Any], located: str, data: dict[str, Any], loc: Loc, done: Expanded) -> None:
    stored, folder = stored_config(located)
    inner = expand(stored, folder)
    if inner.problems:
        raise ValueError(f"{located}: {inner.problems[0]}")
    found = _pretransform_of(stored, located)
    if found.get("type") != section.get("type"):
        raise ValueError(
            f"{located} holds a pretransform of type '{found.get('type')}', but type is "
            f"'{section.get('type')}'"
        )
    rates = data.get("sample_rate"), stored.get("sample_rate")
    if None not in rates and rates[0] != rates[1]:
        message = f"made for {rates[1]} Hz, but sample_rate is {rates[0]}"
        done.warnings.append(Problem(json_path((*loc, "path")), message))
    section.update({**found, **section})


def _pretransform_of(stored: dict[str, Any], located: str) -> dict[str, Any]:
    """The pretransform section that a model offers to others."""
    model = stored.get("model")
    if isinstance(model, dict) and stored.get("model_type") == "autoencoder":
        return {"type": "autoencoder", "config": model}
    found = model.get(PRETRANSFORM) if isinstance(model, dict) else None
    if not isinstance(found, dict):
        raise ValueError(f"{located} holds neither an autoencoder nor a model with a pretransform")
    return {k: v for k, v in found.items() if k not in ("hash", "enable_grad")}
