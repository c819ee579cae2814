"""The models that a process has in memory."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from stable_audio.adapters import AdapterError, AdapterStack, check_base
from stable_audio.checkpoints.run_adapters import read_newest_adapter
from stable_audio.inference.memory.errors import free_memory_of
from stable_audio.inference.rendering.adapting import AdaptedModels
from stable_audio.inference.rendering.load import RenderModel, load_render_model
from stable_audio.interface.service.messages import ModelLoaded, ModelUnusable
from stable_audio.interface.service.prepare import ServedAdapter
from stable_audio.interface.service.settings import ModelSource, WorkerOptions
from stable_audio.model import DiffusionModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory.

    Attributes:
        model: it, and its origin.
        adapted: it with adapters.
        adapters: names of the adapters that fit it.
    """

    model: RenderModel
    adapted: AdaptedModels
    adapters: tuple[str, ...]


class LoadedModels:
    """Loads models when they are needed, and lets go of those that were not used for longest.

    Args:
        sources: the models.
        adapters: adapters, of which each model takes those that fit it.
        options: how they are loaded, and how many stay.
    """

    def __init__(
        self, sources: Sequence[ModelSource], adapters: Mapping[str, ServedAdapter], options: WorkerOptions
    ) -> None:
        self._sources = {source.name: source for source in sources}
        self._adapters, self._options = adapters, options
        self._models: dict[str, LoadedModel] = {}

    def load_all(self) -> Iterator[ModelLoaded | ModelUnusable]:
        """Load each model once, and report it. As many stay as are resident, the first ones."""
        for name in [*self._sources][1:] + [*self._sources][:1]:
            try:
                loaded, took = self.get(name)
            except (ValueError, OSError, ImportError, RuntimeError, MemoryError) as error:
                free_memory_of(error)
                yield ModelUnusable(name, str(error) or type(error).__name__)
                continue
            model = loaded.model
            yield ModelLoaded(
                name,
                model.config,
                model.checkpoint,
                model.pretransform,
                model.use_ema,
                model.dtype,
                loaded.adapters,
                took,
            )

    def get(self, name: str) -> tuple[LoadedModel, float]:
        """The model of this name, and the seconds that loading it took now."""
        started = time.perf_counter()
        if name in self._models:
            self._models[name] = self._models.pop(name)  # the latest one is the last
            return self._models[name], 0.0
        while self._options.resident and len(self._models) >= self._options.resident:
            self._models.pop(next(iter(self._models)))
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        self._models[name] = self._load(self._sources[name])
        return self._models[name], time.perf_counter() - started

    def _load(self, source: ModelSource) -> LoadedModel:
        options = self._options
        fitting: list[str] = []
        model = load_render_model(
            source.checkpoint,
            device=options.device,
            **options.loading,
            **source.loading,
            check=functools.partial(self._find_fitting, fitting),
        )
        return LoadedModel(model, AdaptedModels(model.model), tuple(fitting))

    def _find_fitting(self, fitting: list[str], model: DiffusionModel, file: str) -> None:
        stack = AdapterStack(model.backbone, model.conditioner)
        for name, served in self._adapters.items():
            try:
                adapter = read_newest_adapter(served.path)
                stack.check(adapter)
                check_base(model, [adapter], name=file, any_base=self._options.any_base)
            except AdapterError as error:
                log.warning("adapter '%s' is not for %s: %s", name, file, error)
            else:
                fitting.append(name)
