"""Adapters with which a model generates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stable_audio.adapters.base import check_base
from stable_audio.adapters.spec import AnyAdapter, uses_of
from stable_audio.adapters.use import with_adapters
from stable_audio.checkpoints.run_adapters import read_newest_adapter
from stable_audio.model import DiffusionModel


@dataclass(frozen=True, kw_only=True)
class AdapterInputs:
    """Trained changes of the model's weights, for one call.

    Attributes:
        adapters: in the order in which they apply: files, folders of runs, texts such as
            "pad.safetensors:0.8" (see `AdapterSpec.parse`), `AdapterSpec` or `AdapterUse` objects.
        thin_adapters: save memory at the cost of time, see `with_adapters`.
        any_base: take adapters that were trained on another model, too. Otherwise the weights of the model
            are hashed in the first call, and again when they have changed; see `adapters.check_base`.
    """

    adapters: Sequence[AnyAdapter] = ()
    thin_adapters: bool = False
    any_base: bool = False

    def on(self, model: DiffusionModel) -> DiffusionModel:
        """A copy of the model with the adapters; without any, the model itself.

        Raises:
            AdapterError: an adapter of another model, or a file that is none.
        """
        adapters = [self.adapters] if isinstance(self.adapters, str) else self.adapters
        if not adapters:
            return model
        uses = uses_of(adapters, read_newest_adapter)
        name = model.loaded_from or "one that was loaded from no file"
        check_base(model, [use.adapter for use in uses], name=name, any_base=self.any_base)
        return with_adapters(model, uses, thin=self.thin_adapters)
