"""From a request to a job and its recipe: the same in the process that answers and in that which renders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stable_audio.adapters.spec import AdapterSpec
from stable_audio.characters import shown
from stable_audio.inference.generation.settings import Sampling
from stable_audio.inference.rendering.adapting import recorded
from stable_audio.inference.rendering.edits import Edit, edited
from stable_audio.inference.rendering.finishing import Finishing
from stable_audio.inference.rendering.job_lines import JobLine, jobs_of
from stable_audio.inference.rendering.jobs import Job, complete
from stable_audio.inference.rendering.load import RenderModel
from stable_audio.inference.rendering.plan import plan
from stable_audio.inference.rendering.recipe import AdapterFile, InputFile, Recipe
from stable_audio.inference.rendering.render import check_spans
from stable_audio.interface.service.sounds import RequestSounds
from stable_audio.model import DiffusionModel

SOURCE = "request"
TIMES = ("seconds_start", "seconds_total")
"""Keys of the conditioning that are filled in from the length of the clip."""

FINISHING = ("trim_silence", "loudness", "true_peak")
"""Keys of a request that are settings of `Finishing`."""

_CONDITIONINGS = ("conditioning", "negative_conditioning", "to_conditioning", "init_conditioning")


@dataclass(frozen=True)
class ServedAdapter:
    """An adapter that requests can name.

    Attributes:
        path: its file or run.
        file: its name and digest, for recipes.
    """

    path: str
    file: InputFile


@dataclass(frozen=True)
class PreparedJob:
    """A job that its model can render.

    Attributes:
        job: with the files of its sounds.
        recipe: with names in place of paths.
    """

    job: Job
    recipe: Recipe


class _Served:
    """Adapters for `plan`, which the processes have checked when they loaded the model."""

    def __init__(self, adapters: Mapping[str, ServedAdapter]) -> None:
        self._files = {adapter.path: adapter.file for adapter in adapters.values()}

    def check(self, specs: Any) -> None:
        """They fit."""

    def files(self, specs: Any) -> list[AdapterFile] | None:
        """The adapters as recipes have them; None if there are none."""
        return recorded(specs, self._files.__getitem__)


def prepared(
    render_model: RenderModel,
    line: Mapping[str, Any],
    sounds: RequestSounds,
    adapters: Mapping[str, ServedAdapter],
    *,
    chunked_decode: bool = False,
) -> PreparedJob:
    """Check a request against its model, and complete it.

    Args:
        render_model: the model, whose weights are not looked at.
        line: the keys of a line of a file of clips, with its seed; `adapters` by name; and settings of
            `Finishing`.
        sounds: the sounds that it names.
        adapters: those that it can name.

    Raises:
        ValueError: what is wrong with it.
    """
    model = render_model.model
    values = {key: value for key, value in line.items() if key not in (*FINISHING, "adapters")}
    named = {key: dict(values[key]) for key in _CONDITIONINGS if values.get(key)}
    values.update({key: sounds.located(model, metadata) for key, metadata in named.items()})
    values.setdefault("conditioning", {})
    specs = tuple(_spec(entry, adapters) for entry in line.get("adapters") or ())
    jobs = [replace(job, adapters=specs) for job in jobs_of([JobLine(values, SOURCE)])]
    finishing = Finishing(**{key: line[key] for key in FINISHING if line.get(key) is not None})
    jobs = edited(jobs, Edit(), sounds)
    _check_needed(model, jobs[0])
    jobs = complete(jobs, model)
    planned = plan(
        render_model,
        jobs,
        sampling=Sampling(),
        chunked_decode=chunked_decode,
        adapted=_Served(adapters),  # type: ignore[arg-type]
        finishing=finishing,
    )
    check_spans(model, planned.jobs, planned.recipes)
    return PreparedJob(planned.jobs[0], _public(planned.recipes[0], named, sounds, render_model))


def _check_needed(model: DiffusionModel, job: Job) -> None:
    """Raise ValueError if the conditioning lacks what nothing else gives."""
    missing = model.conditioner.missing(job.conditioning) if model.conditioner is not None else []
    if lacking := [key for key in missing if key not in TIMES]:
        raise ValueError(f"conditioning lacks {', '.join(lacking)}; /v1/models says what a model reads")


def _spec(entry: Mapping[str, Any], adapters: Mapping[str, ServedAdapter]) -> AdapterSpec:
    name = entry["name"]
    if name not in adapters:
        raise ValueError(
            f"adapters: there is no adapter '{name}' for this model; it has {', '.join(adapters) or 'none'}"
        )
    return AdapterSpec(
        adapters[name].path, entry.get("strength", 1.0), tuple(entry.get("interval") or (0.0, 1.0))
    )


def _public(
    recipe: Recipe, named: Mapping[str, Any], sounds: RequestSounds, render_model: RenderModel
) -> Recipe:
    """The recipe with names in place of the paths of this machine, which change no digest of content."""
    ids = {sound.path: id for id, sound in sounds.used.items()}
    heard = {
        key: InputFile(ids[file.path], sounds.used[ids[file.path]].digest)
        for key, file in (recipe.condition_audio or {}).items()
    }
    conditioning = {**recipe.conditioning, **named.get("conditioning", {})} if heard else recipe.conditioning
    values: dict[str, Any] = {"conditioning": conditioning, "condition_audio": heard or None}
    for key in ("negative_conditioning", "to_conditioning", "init_conditioning"):
        if named.get(key):
            values[key] = named[key]
    return replace(
        recipe,
        checkpoint=by_name(recipe.checkpoint),
        pretransform=None if recipe.pretransform is None else by_name(recipe.pretransform),
        **values,
    )


def by_name(file: InputFile) -> InputFile:
    """A file without its folder, by a name that answers can hold."""
    return replace(file, path=shown(Path(file.path).name))


def shapes_of(config: Any) -> DiffusionModel:
    """The model of a config without weights, for checking requests."""
    from stable_audio.config import load_config
    from stable_audio.factory import create_model_from_config

    model = create_model_from_config(load_config(config, source_name="the model's config"), device="meta")
    assert isinstance(model, DiffusionModel)
    return model
