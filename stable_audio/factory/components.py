"""`{type, config}` sections -> objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stable_audio.config.schemas.component import Component
from stable_audio.config.schemas.leaf import Leaf, arguments
from stable_audio.options import keywords_of


def create(section: Component, registry: Mapping[str, Any], **provided: Any) -> Any:
    """Build the component that a section names in `registry`.

    Args:
        section: name of the component and keywords of its constructor.
        registry: name -> class.
        provided: further keywords; those of the file take precedence, unless they are None.
    """
    keywords = arguments(section.config)
    unset = {k for k, v in keywords.items() if v is None and k in provided}
    return registry[section.type](**{**provided, **{k: v for k, v in keywords.items() if k not in unset}})


def at_rate(component: Any, options: Leaf, sample_rate: int) -> Any:
    """Build a component from its options, with the sample rate of the model if it has one."""
    rate = {"sample_rate": sample_rate} if "sample_rate" in keywords_of(component) else {}
    return component(**{**rate, **arguments(options)})
