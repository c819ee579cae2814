"""Adapters with which a model generates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stable_audio.adapters.spec import AnyAdapter, uses_of
from stable_audio.adapters.use import with_adapters
from stable_audio.model import DiffusionModel


@dataclass(frozen=True, kw_only=True)
class AdapterInputs:
    """Trained changes of the model's weights, for one call.

    Attributes:
        adapters: in the order in which they apply: files, folders of runs, texts such as
            "pad.safetensors:0.8" (see `AdapterSpec.parse`), `AdapterSpec` or `AdapterUse` objects.
        thin_adapters: save memory at the cost of time, see `with_adapters`.
    """

    adapters: Sequence[AnyAdapter] = ()
    thin_adapters: bool = False

    def on(self, model: DiffusionModel) -> DiffusionModel:
        """A copy of the model with the adapters; without any, the model itself.

        Raises:
            AdapterError: an adapter of another model, or a file that is none.
        """
        adapters = [self.adapters] if isinstance(self.adapters, str) else self.adapters
        return with_adapters(model, uses_of(adapters), thin=self.thin_adapters) if adapters else model
