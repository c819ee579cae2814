"""Annotations of fields whose models are derived from constructors, which type checkers cannot follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Annotated as Derived
else:

    class Derived:
        """`Derived[Seen, model]`: `model` for pydantic, `Seen` for type checkers."""

        def __class_getitem__(cls, item: tuple[Any, Any]) -> Any:
            return item[1]


__all__ = ["Derived"]
