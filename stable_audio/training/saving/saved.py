"""What of a model's weights the files of a run hold: all of them, or what the run has changed of a base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from stable_audio.adapters import Adapter, AdapterSettings, Passport, TrainingClips, write_adapter
from stable_audio.adapters.files import trained_layers
from stable_audio.checkpoints import CheckpointError, StoredWeights, save_inference_file
from stable_audio.checkpoints.base_file import BaseFile
from stable_audio.checkpoints.difference import base_of, keys_of
from stable_audio.checkpoints.format import (
    ADAPTED_KEY,
    BASE_KEY,
    FORMAT_VERSION,
    TRANSFORMS_KEY,
    WHOLE_VERSION,
)
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from stable_audio.training.transforms import trained_adapter
from stable_audio.transforms.freezing import is_frozen
from stable_audio.transforms.recorded import Record, needed

Value = TypeVar("Value")

BASE_NAME = "base.safetensors"
"""What a run's folder calls the weights that its checkpoints add to."""

INHERITED_KEY = "inherited_transforms"


@dataclass(frozen=True)
class SavedWeights:
    """What checkpoints and inference files hold, and what they say about it.

    Attributes:
        transforms: what the run has done to its model.
        inherited: what had been done to it where its weights come from.
        base: the file with the weights that are left out; None: none are.
        in_base: keys of these weights in the model.
        adapter: settings of the adapter that is trained instead of the weights; its files are adapters.
        passport: what such files say of their origin, but for the step.
    """

    transforms: Sequence[Record] = ()
    inherited: Sequence[Record] = ()
    base: BaseFile | None = None
    in_base: frozenset[str] = frozenset()
    adapter: AdapterSettings | None = None
    passport: Passport = Passport()  # noqa: RUF009 (frozen)

    def part(self, tensors: Mapping[str, Value], prefix: str = "") -> dict[str, Value]:
        """Those of `tensors` that are saved.

        Args:
            tensors: by the keys of the model's weights.
            prefix: what stands before the keys.
        """
        left_out = {prefix + key for key in self.in_base}
        return {key: value for key, value in tensors.items() if key not in left_out}

    def write(
        self,
        path: Path,
        tensors: Mapping[str, Tensor],
        config: Mapping[str, Any],
        *,
        weights: str,
        info: Mapping[str, Any],
    ) -> None:
        """Write an inference file, or the file of an adapter where the run trains one.

        Args:
            path: of the file; the other arguments are those of `save_inference_file`.
        """
        if self.adapter is None:
            save_inference_file(path, tensors, config, weights=weights, info=info, **self._inference_info)
            return
        passport = replace(self.passport, step=int(info["step"]))
        write_adapter(path, Adapter(self.adapter, trained_layers(tensors), passport=passport))

    def with_clips(self, clips: TrainingClips) -> SavedWeights:
        """The same, once it is known what the run trains on."""
        return replace(self, passport=replace(self.passport, data=clips))

    @property
    def _inference_info(self) -> dict[str, Any]:
        """Keywords of `save_inference_file`."""
        if self.base is not None:
            return {"transforms": self.transforms, "base": self.base}
        return {"transforms": needed([*self.inherited, *self.transforms])}

    @property
    def entry(self) -> dict[str, Any]:
        """What a training checkpoint says; nothing but the version where that is all there is to say."""
        inherited = needed(self.inherited) if self.base is None else ()
        lists = {TRANSFORMS_KEY: list(self.transforms), INHERITED_KEY: list(inherited)}
        info: dict[str, Any] = {key: value for key, value in lists.items() if value}
        if self.base is not None:
            info[BASE_KEY] = asdict(self.base)
        if self.passport.base is not None:
            info[ADAPTED_KEY] = asdict(self.passport.base)
        later = self.base is not None or needed([*self.inherited, *self.transforms])
        return {**info, "format_version": FORMAT_VERSION if later else WHOLE_VERSION}


def saved_weights(
    model: nn.Module,
    options: RunOptions,
    *,
    transforms: Sequence[Record],
    inherited: Sequence[Record],
    base: BaseFile | None,
    from_base: Sequence[Tensor],
    passport: Passport = Passport(),  # noqa: B008 (frozen)
) -> SavedWeights:
    """What the files of a run hold, once it is known what it trains.

    Args:
        transforms: what the run has done to `model`.
        inherited: what had been done to it where its weights come from.
        base: the file that the run's weights come from, where there is one to refer to.
        from_base: parameters and buffers of `model` that have their values from `base`.
        passport: what the file of an adapter says of its origin.

    Raises:
        TrainingError: a difference is asked for, and there is nothing that it could be a difference from.
    """
    adapter = trained_adapter(transforms)
    if adapter is None and options.checkpoint_weights == "whole":
        return SavedWeights(transforms, inherited)
    if base is None:
        raise TrainingError(
            f"--checkpoint-weights {options.checkpoint_weights} saves what a run changes of the weights that "
            "it started from: give these by --pretrained-ckpt-path; a run that has saved whole checkpoints "
            "goes on with these"
        )
    in_base = keys_of(model, from_base)
    if adapter is None:
        in_base &= frozen_keys(model)
    return SavedWeights(transforms, inherited, base, frozenset(in_base), adapter, passport)


def frozen_keys(model: nn.Module) -> set[str]:
    """Names of the weights that training does not change: parameters of layers that are frozen."""
    return {
        f"{name}.{own}" if name else own
        for name, layer in model.named_modules()
        if is_frozen(layer)
        for own, _ in layer.named_parameters(recurse=False)
    }


def base_for(stored: StoredWeights | None, options: RunOptions, *, adapter: bool = False) -> BaseFile | None:
    """How the files of a new run refer to the weights that it starts from; None where they hold all.

    Args:
        stored: the content of --pretrained-ckpt-path.
        adapter: the run trains an adapter, so that its files always refer to a base.

    Raises:
        TrainingError: an adapter has no base.
        CheckpointError: the file holds a difference itself, and a copy of it would not be enough.
    """
    if stored is None and adapter:
        raise TrainingError(
            "$.training.lora_config: an adapter is trained for a model that exists; name its file by "
            "--pretrained-ckpt-path"
        )
    if stored is None or (options.checkpoint_weights == "whole" and not adapter):
        return None
    copied = options.checkpoint_weights == "base"
    if copied and (stored.base is not None or stored.adapter is not None):
        raise CheckpointError(
            f"{stored.path}: holds a difference itself, so it cannot be the base in the run's folder; write "
            "it whole with `stable-audio export`, or use --checkpoint-weights difference"
        )
    return base_of(stored, use_ema=options.use_ema_weights, name=BASE_NAME if copied else None)


def copy_base(stored: StoredWeights, folder: Path) -> None:
    """Put the weights that a new run starts from into its folder, where its files refer to them there.

    Raises:
        TrainingError: they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_inference_file(
            folder / BASE_NAME,
            stored.tensors,
            stored.config or {},
            weights=stored.weights,
            transforms=stored.transforms,
        )
    except OSError as error:
        raise TrainingError(f"{folder / BASE_NAME}: cannot be written ({error})") from error
