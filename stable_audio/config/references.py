"""`"path"` in pretransform sections: the config inside the file that it names takes its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stable_audio.config.problems import Loc, Problem, json_path
from stable_audio.config.stored import locate, stored_config

PRETRANSFORM = "pretransform"


@dataclass
class Expanded:
    """What was done.

    Attributes:
        weights: module of the model, such as `pretransform` -> absolute path or hub id of its weights.
        problems: paths that lead nowhere. warnings: files made for something else.
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
    return done


def _sections(data: dict[str, Any]) -> Iterator[tuple[Loc, str, dict[str, Any]]]:
    """Place, module and content of every pretransform section, from the outside to the inside."""
    holder, module = data.get("model"), ""
    loc: Loc = ("model",)
    while isinstance(holder, dict) and isinstance(holder.get(PRETRANSFORM), dict):
        section = holder[PRETRANSFORM]
        loc = (*loc, PRETRANSFORM)
        module = f"{module}.model.{PRETRANSFORM}" if module else PRETRANSFORM
        yield loc, module, section
        holder, loc = section.get("config"), (*loc, "config")


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
