from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same numbers on every run."""
    torch.manual_seed(0)
