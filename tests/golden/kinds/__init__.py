"""Kind of golden case -> function (case) -> {output name: value}. One file per kind or family of kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.golden.harness import Case
from tests.golden.kinds import cond

KINDS: dict[str, Callable[[Case], dict[str, Any]]] = {
    "cond": cond.run,
}
