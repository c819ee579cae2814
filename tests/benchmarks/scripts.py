"""The scripts of benchmarks/, as a command line runs them."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def run_script(
    script: str, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch, *, run_name: str = "__main__"
) -> dict[str, Any]:
    """Run a script with arguments; returns its names.

    Args:
        run_name: another one than "__main__" loads it alone.
    """
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "common", raising=False)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    return runpy.run_path(str(FOLDER / f"{script}.py"), run_name=run_name)
