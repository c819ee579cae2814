"""`{"type": NAME, "config": {...}}`: one model per entry of a registry, told apart by `type`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, Field, create_model

from stable_audio.config.schemas.leaf import Section, leaf_model


class Component(Section):
    """A named entry of a registry and the keywords of its constructor."""

    type: str
    config: Any


def component(
    registry: Mapping[str, type],
    *,
    title: str,
    base: type[Component] = Component,
    provided: tuple[str, ...] = (),
    hidden: tuple[str, ...] = (),
    special: Mapping[str, type[BaseModel]] | None = None,
    bases: Mapping[str, type[Component]] | None = None,
) -> Any:
    """The type of a `{type, config}` object of `registry`.

    Args:
        title: first part of the models' names in the JSON schema.
        base: the model with the keys that stand beside `type` and `config`.
        bases: other base models, by type name.
        provided: constructor arguments that the factory supplies unless the file does; see `leaf_model`.
        hidden: constructor arguments that only the factory supplies; see `leaf_model`.
        special: registry name -> hand-written model of `config`, for constructors that take parts.
    """
    members = []
    for name, cls in registry.items():
        config = (special or {}).get(name) or leaf_model(cls, provided=provided, hidden=hidden)
        members.append(_member(f"{title}_{name}", (bases or {}).get(name, base), name, config))
    if len(members) == 1:
        return members[0]
    return Annotated[Union[tuple(members)], Field(discriminator="type")]  # noqa: UP007


def _member(title: str, base: type[Component], name: str, config: type[BaseModel]) -> type[Component]:
    optional = not any(f.is_required() for f in config.model_fields.values())
    default = Field(default_factory=config) if optional else Field(...)
    fields: dict[str, Any] = {"type": (Literal[name], ...), "config": (config, default)}
    return create_model(title, __base__=base, __module__=__name__, **fields)
