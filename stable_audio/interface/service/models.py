"""The models of a service, as far as requests can be checked against them without their weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stable_audio.inference.rendering.load import RenderModel
from stable_audio.interface.service.describe import described
from stable_audio.interface.service.errors import ServiceError
from stable_audio.interface.service.messages import ModelLoaded
from stable_audio.interface.service.prepare import ServedAdapter, shapes_of
from stable_audio.wording import did_you_mean

log = logging.getLogger(__name__)


@dataclass
class ServedModel:
    """A model that clients can name.

    Attributes:
        name: its name.
        state: "loading", "ready" or "failed".
        error: why it cannot be used.
        model: it without weights.
        adapters: those that fit it.
        facts: what clients are told.
    """

    name: str
    state: str = "loading"
    error: str | None = None
    model: RenderModel | None = None
    adapters: Mapping[str, ServedAdapter] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def loaded(self, report: ModelLoaded, adapters: Mapping[str, ServedAdapter]) -> None:
        """Take over what a process says of it; builds the model without weights."""
        if self.model is not None:
            return
        shapes = shapes_of(dict(report.config))
        self.model = RenderModel(
            shapes, dict(report.config), report.checkpoint, report.pretransform, report.use_ema, report.dtype
        )
        self.adapters = {name: adapters[name] for name in report.adapters}
        self.facts = described(shapes)
        self.state, self.error = "ready", None

    def told(self) -> dict[str, Any]:
        """As JSON values for clients."""
        return {
            "name": self.name,
            "state": self.state,
            "adapters": [*self.adapters],
            **self.facts,
        }


class ServedModels:
    """The models by name.

    Args:
        names: in the order of the command line; the first is the default.
    """

    def __init__(self, names: list[str]) -> None:
        self.all = {name: ServedModel(name) for name in names}

    def named(self, name: str | None) -> ServedModel:
        """The model of this name, or the first that is not known to fail.

        Raises:
            ServiceError: there is none, or it is not ready.
        """
        if name is None:
            usable = [model for model in self.all.values() if model.state != "failed"]
            model = (usable or [*self.all.values()])[0]
        elif name in self.all:
            model = self.all[name]
        else:
            raise ServiceError(404, f"there is no model '{name[:80]}'; {did_you_mean(name, self.all)}")
        if model.state == "failed":
            raise ServiceError(
                503, f"the model '{model.name}' could not be loaded; the log of the service says why"
            )
        if model.model is None:
            raise ServiceError(503, f"the model '{model.name}' is being loaded", retry_after=5)
        return model
