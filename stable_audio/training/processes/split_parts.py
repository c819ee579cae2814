"""Which modules of a model are gathered at once when its weights are split over processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from stable_audio.backbones.base import Backbone
from stable_audio.conditioning.multi import MultiConditioner
from stable_audio.pretransforms.bottlenecks.base import Bottleneck
from stable_audio.pretransforms.coder import Coder
from stable_audio.pretransforms.discriminators import Discriminator

BACKBONE_METHODS = ("prepare", "null", "hidden_states")
"""Of backbones, which read weights without calling the backbone as a module."""

BOTTLENECK_METHODS = ("encode", "decode", "tokens", "decode_tokens")
"""Of bottlenecks, which are called by these alone."""


@dataclass(frozen=True)
class Unit:
    """A module whose own weights, those outside of units in it, are gathered while it is called.

    Attributes:
        module: the module.
        methods: methods that read its weights, besides `forward`.
    """

    module: nn.Module
    methods: Sequence[str] = ()


@dataclass(frozen=True)
class SplitPart:
    """A part of a model that is called from outside of it.

    Attributes:
        outer: the part itself.
        inner: the units in it, which are called within a call of the part; inner ones first.
    """

    outer: Unit
    inner: Sequence[Unit] = ()

    @property
    def units(self) -> list[Unit]:
        return [*self.inner, self.outer]


def parts_of(module: nn.Module) -> Iterator[SplitPart]:
    """The parts of a model, or of another network, in the order of its modules."""
    for kind, parts in PARTS.items():
        if isinstance(module, kind):
            yield from parts(module)
            return
    for child in module.children():
        yield from parts_of(child)


def _of_backbone(backbone: Any) -> Iterator[SplitPart]:
    apart = {id(part): (part, method) for part, method in backbone.read_apart}
    blocks = list(backbone.units)
    inner = [part for part, _ in apart.values() if not any(part is block for block in blocks)]

    def unit(module: nn.Module) -> Unit:
        method = apart[id(module)][1] if id(module) in apart else "forward"
        return Unit(module, () if method == "forward" else (method,))

    methods = [name for name in BACKBONE_METHODS if hasattr(backbone, name)]
    yield SplitPart(Unit(backbone, methods), [unit(module) for module in (*inner, *blocks)])


def _of_coder(coder: Any) -> Iterator[SplitPart]:
    yield SplitPart(Unit(coder), [Unit(block) for block in coder.units])


def _of_bottleneck(bottleneck: Any) -> Iterator[SplitPart]:
    yield SplitPart(Unit(bottleneck, [name for name in BOTTLENECK_METHODS if hasattr(bottleneck, name)]))


def _of_discriminator(discriminator: Any) -> Iterator[SplitPart]:
    for network in discriminator.networks:
        yield SplitPart(Unit(network))


def _of_conditioner(conditioner: nn.Module) -> Iterator[SplitPart]:
    yield SplitPart(Unit(conditioner))


PARTS: dict[type[nn.Module], Callable[[Any], Iterator[SplitPart]]] = {
    Backbone: _of_backbone,
    Coder: _of_coder,
    Bottleneck: _of_bottleneck,
    Discriminator: _of_discriminator,
    MultiConditioner: _of_conditioner,
}
"""Kind of module -> its parts. Everything else is a container of them."""
