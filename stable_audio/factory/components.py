"""`{type, config}` sections -> objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stable_audio.config.schemas.component import Component
from stable_audio.config.schemas.leaf import arguments


def create(section: Component, registry: Mapping[str, Any], **provided: Any) -> Any:
    """What a section names in `registry`; keywords that the file gives win over `provided`."""
    given = arguments(section.config)
    unset = {k for k, v in given.items() if v is None and k in provided}
    return registry[section.type](**{**provided, **{k: v for k, v in given.items() if k not in unset}})
