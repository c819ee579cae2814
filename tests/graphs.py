"""The graphs that a test lets torch compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn


def graph_sizes(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Iterator[list[int]]:
    """Sizes of the graphs that modules compile from here on, by a compiler that changes nothing.

    Args:
        options: of `torch.compile`.
    """
    compiled: list[int] = []

    def count(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        compiled.append(len(graph.graph.nodes))
        return graph.forward

    original = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: original(self, backend=count, **options))
    torch._dynamo.reset()
    yield compiled
    torch._dynamo.reset()
