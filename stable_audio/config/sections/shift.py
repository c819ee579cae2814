"""Distribution shifts, `{"type": "flux", "alpha_max": 4.0}`: keywords beside a type, which has a default."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

from pydantic import Discriminator, Field, Tag, create_model

from stable_audio.config.schemas.leaf import Leaf, arguments, leaf_model
from stable_audio.diffusion.shift import DEFAULT_SHIFT, SHIFTS, TimeShift


def any_shift() -> Any:
    """The type of options of any shift."""
    members = tuple(Annotated[_options(name), Tag(name)] for name in SHIFTS)
    return Annotated[Union[members], Discriminator(_type_of)]  # noqa: UP007


def shift_from(options: Leaf | None) -> TimeShift | None:
    """The shift of a section; None without options."""
    if options is None:
        return None
    return SHIFTS[_type_of(options)](**{k: v for k, v in arguments(options).items() if k != "type"})


def _options(name: str) -> type[Leaf]:
    description = "how t is shifted by the length"
    default = Field(name if name == DEFAULT_SHIFT else ..., description=description)
    fields: dict[str, Any] = {"type": (Literal[name], default)}
    shift: Any = SHIFTS[name]
    base: Any = leaf_model(shift)
    model: type[Leaf] = create_model(f"shift_{name}", __base__=base, __module__=__name__, **fields)
    model.target = SHIFTS[name]
    return model


def _type_of(options: Any) -> Any:
    if isinstance(options, dict):
        return options.get("type", DEFAULT_SHIFT)
    return getattr(options, "type", DEFAULT_SHIFT)
