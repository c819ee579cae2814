"""The adapters that clips name: read once, checked before the first clip, and recorded in recipes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from stable_audio.adapters.files import Adapter
from stable_audio.adapters.spec import AdapterSpec
from stable_audio.adapters.stack import AdapterStack
from stable_audio.adapters.use import AdapterUse, with_adapters
from stable_audio.checkpoints.run_adapters import newest_adapter, read_newest_adapter
from stable_audio.inference.rendering.recipe import AdapterFile, InputFile
from stable_audio.model import DiffusionModel

Specs = Sequence[AdapterSpec]


class AdaptedModels:
    """A model with the adapters of each clip; the latest copy is kept for the clips that follow.

    Args:
        thin: as for `with_adapters`.
    """

    def __init__(self, model: DiffusionModel, *, thin: bool = False) -> None:
        self._model, self._thin = model, thin
        self._adapters: dict[str, Adapter] = {}
        self._files: dict[str, InputFile] = {}
        self._latest: tuple[tuple[AdapterSpec, ...], DiffusionModel] = ((), model)

    @property
    def model(self) -> DiffusionModel:
        """The model without adapters."""
        return self._model

    def check(self, specs: Specs) -> None:
        """Raise AdapterError if a file is no adapter, or one of another model or without the named layers."""
        stack = AdapterStack(self._model.backbone, self._model.conditioner)
        for spec in specs:
            stack.check(spec.use(self._adapter).adapter)

    def __call__(self, specs: Specs) -> DiffusionModel:
        """The model with these adapters, which apply in their order."""
        if self._latest[0] != tuple(specs):
            self._latest = (tuple(specs), self._copy([spec.use(self._adapter) for spec in specs]))
        return self._latest[1]

    def _copy(self, uses: list[AdapterUse]) -> DiffusionModel:
        return with_adapters(self._model, uses, thin=self._thin) if uses else self._model

    def files(self, specs: Specs) -> list[AdapterFile] | None:
        """The adapters as recipes have them; None if there are none."""
        return recorded(specs, self._file)

    def _adapter(self, path: str) -> Adapter:
        if path not in self._adapters:
            self._adapters[path] = read_newest_adapter(path)
        return self._adapters[path]

    def _file(self, path: str) -> InputFile:
        if path not in self._files:
            self._files[path] = InputFile.of(newest_adapter(path))
        return self._files[path]


def recorded(specs: Specs, file: Callable[[str], InputFile]) -> list[AdapterFile] | None:
    """Adapters as recipes have them; None if there are none.

    Args:
        file: path -> the name and digest of the adapter there.
    """
    files = [
        AdapterFile(
            **dataclasses.asdict(file(spec.path)),
            strength=spec.strength,
            interval=list(spec.interval),
            layer_filter=spec.layer_filter,
        )
        for spec in specs
    ]
    return files or None


def specs_of_recipe(files: Sequence[AdapterFile], paths: Sequence[str], source: str) -> list[AdapterSpec]:
    """The adapters of a recipe.

    Args:
        paths: where their files are now, in the same order; empty: where the recipe says.
        source: file of the recipe, for messages.

    Raises:
        ValueError: another number of files.
    """
    if paths and len(paths) != len(files):
        raise ValueError(
            f"{source} was made with {len(files)} adapters, found {len(paths)}: name the file of each with "
            "--adapter, in their order, or none"
        )
    located = paths or [file.path for file in files]
    return [
        AdapterSpec(path, file.strength, (file.interval[0], file.interval[1]), file.layer_filter)
        for path, file in zip(located, files)
    ]
