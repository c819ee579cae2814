"""What to render, with which model and settings: anew, or again from the recipe of a rendered file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from stable_audio.adapters import check_base
from stable_audio.adapters.spec import AdapterSpec
from stable_audio.checkpoints.run_adapters import newest_adapter, read_newest_adapter
from stable_audio.config import load_config
from stable_audio.data.world import ALONE, World
from stable_audio.inference.generation.settings import Sampling
from stable_audio.inference.precision import AUTO, QUANTISED, compiling_pays, dtype_for
from stable_audio.inference.rendering.adapting import AdaptedModels
from stable_audio.inference.rendering.finishing import NO_FINISHING, Finishing
from stable_audio.inference.rendering.jobs import Job, complete
from stable_audio.inference.rendering.load import RenderModel, load_render_model
from stable_audio.inference.rendering.plan import RenderPlan, cautions, job_of, plan
from stable_audio.inference.rendering.recipe import Recipe, read_recipe, sampling_from
from stable_audio.inference.rendering.render import OutputFiles, Rendered, render
from stable_audio.inference.rendering.steering import Steering
from stable_audio.model import DiffusionModel
from stable_audio.types import Metadata


@dataclass(frozen=True, kw_only=True)
class RenderRequest:
    """Clips to render and all that determines their sound.

    Attributes:
        checkpoint: as for `load_render_model`, as are the six that follow.
        compiled: as there; None: where that pays by the number of clips.
        jobs: the clips.
        first_seed: as for `complete`, as are the four that follow.
        conditioning: for the keys that a job lacks.
        negative: negative conditioning of jobs without their own.
        adapters: those of jobs without their own.
        any_base: accept adapters that were trained on another model.
        thin_adapters: as in `AdapterInputs`.
        guide: as for `load_render_model`.
        sampling: settings of jobs without their own, of which some may be left to the model.
        chunked_decode: as for `render`.
        finishing: what happens to the samples before they are written.
        recipe: the recipe of which this is a repetition; None: `jobs` are new.
        recipe_file: where that recipe was read, for messages.
    """

    checkpoint: str | Path
    config: Any = None
    pretransform: str | Path | None = None
    lenient: bool = False
    use_ema: bool = True
    dtype: str = AUTO
    compiled: bool | None = None
    jobs: Sequence[Job]
    first_seed: int = 0
    seconds: float | None = None
    conditioning: Mapping[str, Any] = field(default_factory=dict)
    negative: Metadata | None = None
    adapters: Sequence[AdapterSpec] = ()
    any_base: bool = False
    thin_adapters: bool = False
    guide: str | Path | None = None
    sampling: Sampling = field(default_factory=Sampling)
    chunked_decode: bool = False
    finishing: Finishing = NO_FINISHING
    recipe: Recipe | None = None
    recipe_file: str = ""

    def __post_init__(self) -> None:
        # Before the model is loaded, which may take minutes: whatever can be checked without it.
        self.sampling.check()
        if self.dtype in QUANTISED and self._adapter_paths:
            raise ValueError(
                f"{self.dtype} weights take no adapters; write these into a model file with `stable-audio "
                f"adapter merge`, and render that one in {self.dtype}"
            )
        for path in self._adapter_paths:
            newest_adapter(path)

    @classmethod
    def from_recipe(
        cls,
        path: str | Path,
        *,
        checkpoint: str | Path | None = None,
        pretransform: str | Path | None = None,
        init_audio: str | Path | None = None,
        inpaint_audio: str | Path | None = None,
        adapters: Sequence[str] = (),
        any_base: bool = False,
        thin_adapters: bool = False,
        guide: str | Path | None = None,
        compiled: bool | None = None,
    ) -> RenderRequest:
        """Ask for the sound of a rendered file again.

        Args:
            path: that file, or the JSON beside it.
            checkpoint: where this file is now; None: where the recipe says, as for the others.
            adapters: where the files of all its adapters are now, in their order.
            any_base: accept adapters that were trained on another model.
            thin_adapters: as in `AdapterInputs`.
            guide: where the file of the weaker model is now.
            compiled: as for `place`; None: where it pays.

        Raises:
            ValueError: not such a JSON file, or one with mistakes, all of which are named.
        """
        recipe = read_recipe(path)
        inputs = {"init_audio": init_audio, "inpaint_audio": inpaint_audio, "pretransform": pretransform}
        for name, file in inputs.items():
            recorded = getattr(recipe, name)
            inputs[name] = file or (recorded.path if recorded is not None else None)
        pretransform = inputs.pop("pretransform")
        return cls(
            checkpoint=checkpoint or recipe.checkpoint.path,
            guide=guide or (recipe.guide.path if recipe.guide is not None else None),
            config=load_config(recipe.config, source_name=f"{path}, config"),
            pretransform=pretransform,
            use_ema=recipe.use_ema,
            dtype=recipe.dtype,
            jobs=[replace(job_of(recipe, str(path), adapters), steering=_steering_of(recipe, inputs))],
            sampling=sampling_from(recipe.sampling),
            chunked_decode=recipe.chunked_decode,
            finishing=recipe.finishing or NO_FINISHING,
            recipe=recipe,
            recipe_file=str(path),
            any_base=any_base,
            thin_adapters=thin_adapters,
            compiled=compiled,
        )

    def load(self, device: torch.device | str = "cpu", *, offload: bool = False) -> RenderModel:
        """Load the model onto `device`, or its parts in turn; see `load_render_model`."""
        dtype, compiled = dtype_for(self.dtype, device), self.compiled
        if compiled is None:
            compiled = compiling_pays(device, clips=len(self.jobs), dtype=dtype)
        return load_render_model(
            self.checkpoint,
            config=self.config,
            pretransform=self.pretransform,
            lenient=self.lenient,
            use_ema=self.use_ema,
            dtype=dtype,
            device=device,
            offload=offload,
            compiled=compiled,
            check=self._check_base,
            guide=self.guide,
        )

    def _check_base(self, model: DiffusionModel, name: str) -> None:
        """Raise AdapterError if an adapter was trained on another model."""
        adapters = [read_newest_adapter(path) for path in self._adapter_paths]
        check_base(model, adapters, name=name, any_base=self.any_base)

    @property
    def _adapter_paths(self) -> list[str]:
        """The adapters of all clips, each once."""
        groups = [self.adapters, *(job.adapters or () for job in self.jobs)]
        return list(dict.fromkeys(spec.path for specs in groups for spec in specs))

    def task(self, render_model: RenderModel) -> RenderTask:
        """Complete the clips with what `render_model` needs, and check them.

        Raises:
            ValueError: naming, for every clip, conditioning that is missing or that the model cannot use.
        """
        jobs = self.jobs
        if self.recipe is None:
            jobs = complete(
                jobs,
                render_model.model,
                first_seed=self.first_seed,
                seconds=self.seconds,
                defaults=self.conditioning,
                negative=self.negative,
                adapters=self.adapters,
            )
        adapted = AdaptedModels(render_model.model, thin=self.thin_adapters)
        todo = plan(
            render_model,
            jobs,
            sampling=self.sampling,
            chunked_decode=self.chunked_decode,
            adapted=adapted,
            finishing=self.finishing,
        )
        return RenderTask(self, render_model, todo, adapted, repeats=len(jobs) - len(todo.jobs))


def _steering_of(recipe: Recipe, inputs: Mapping[str, Any]) -> Steering:
    """The steering of a recipe.

    Args:
        inputs: where its sounds are now.
    """
    given = ("inversion_steps", "init_conditioning", "inpaint_repeats", "loop", "window_seconds", "short")
    values = {name: value for name in given if (value := getattr(recipe, name)) is not None}
    return Steering.from_files(
        **inputs,
        init_noise_level=recipe.init_noise_level if inputs["init_audio"] else None,
        inpaint_spans=recipe.inpaint_seconds or [] if inputs["inpaint_audio"] else [],
        exact=bool(recipe.inpaint_exact),
        **values,
    )


@dataclass(frozen=True)
class RenderTask:
    """A request that its model can carry out.

    Attributes:
        plan: the clips with their recipes.
        adapted: the model with the adapters of each clip.
        repeats: jobs that asked for a clip which another job has.
    """

    request: RenderRequest
    render_model: RenderModel
    plan: RenderPlan
    adapted: AdaptedModels
    repeats: int = 0

    def cautions(self) -> Iterator[str]:
        """Warnings about a render that is possible but may not be intended, one sentence each."""
        request, used = self.request, self.render_model.checkpoint
        if request.recipe is not None and used.digest != request.recipe.checkpoint.digest:
            yield f"{used.path} is not the file that {request.recipe_file} was made with"
        recorded = (request.recipe.adapters or []) if request.recipe is not None else []
        for file, new in zip(recorded, self.plan.recipes[0].adapters or []):
            if file.digest != new.digest:
                yield f"{new.path} is not the adapter that {request.recipe_file} was made with"
        guide, past = self.render_model.guide_file, request.recipe and request.recipe.guide
        if guide is not None and past is not None and guide.digest != past.digest:
            yield f"{guide.path} is not the guide that {request.recipe_file} was made with"
        if self.repeats:
            yield f"{self.repeats} clips are the same as others in every respect, and are rendered once"
        model = self.render_model.model
        yield from cautions(self.plan.jobs, model, request.sampling.resolved_for(model))

    def render(
        self,
        output: OutputFiles,
        *,
        batch_size: int | None = None,
        world: World = ALONE,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[Rendered]:
        """Render the clips; see `render` for the arguments."""
        return render(
            self.render_model.model,
            self.plan.jobs,
            self.plan.recipes,
            output,
            guide=self.render_model.guide,
            batch_size=batch_size,
            chunked_decode=self.request.chunked_decode,
            world=world,
            progress=progress,
            adapted=self.adapted,
        )
