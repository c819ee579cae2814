"""Public names of a package, each imported from its module on first use."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def names_from(package: str, holders: Mapping[str, str]) -> Callable[[str], Any]:
    """Build the `__getattr__` of a package.

    Args:
        holders: public name -> the module that defines it.
    """

    def get(name: str) -> Any:
        if name not in holders:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(importlib.import_module(holders[name]), name)

    return get
