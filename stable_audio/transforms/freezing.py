"""Parts of a model that keep their weights, and the precision in which these are held."""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from stable_audio.nn.mixing import mix_in, plain_class
from stable_audio.nn.precision import rounds
from stable_audio.pretransforms.base import Pretransform
from stable_audio.transforms.base import Transform
from stable_audio.wording import hint

Precision = Literal["float32", "bfloat16", "float16"]


class Freeze(Transform):
    """Train some parts of a model only.

    Parts are named as in the model's weights, such as `backbone.transformer.layers.0`; `*`, `?` and `[0-3]`
    stand for any characters, any one, and one of several. What is frozen by other settings (`enable_grad`,
    `requires_grad`) stays frozen.

    Linear and convolutional layers that are frozen, by this or other settings, may be held in less than 32
    bits. They compute in that precision and return the type that they got; under autocast they compute in
    its type. Pretransforms are left as they are: latents set what a model can reach.

    Args:
        frozen: parts that are not trained.
        trained: the only parts that are trained; None: all that are not frozen.
        precision: type of the weights of frozen layers.
    """

    names_weights = False

    def __init__(
        self,
        *,
        frozen: Sequence[str] = (),
        trained: Sequence[str] | None = None,
        precision: Precision = "float32",
    ) -> None:
        self.frozen, self.trained = tuple(frozen), None if trained is None else tuple(trained)
        self.dtype: torch.dtype = getattr(torch, precision)

    def apply(self, model: nn.Module) -> None:
        names = self._names(model)
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if name in names:
                parameter.requires_grad_(False)
        if self.dtype is not torch.float32:
            for layer in _frozen_layers(model, set()):
                hold_in(layer, self.dtype)

    def rebuild(self, model: nn.Module) -> None:
        if self.dtype is torch.float32:
            return
        for layer in _frozen_layers(model, self._names(model)):
            for parameter in layer.parameters(recurse=False):
                parameter.data = parameter.data.to(self.dtype).to(parameter.dtype)

    def _names(self, model: nn.Module) -> set[str]:
        """Names of the parameters that are frozen.

        Raises:
            ValueError: a part that the model does not have.
        """
        places = {name: _enclosing(name) for name, _ in model.named_parameters(remove_duplicate=False)}
        for key, parts in (("frozen", self.frozen), ("trained", self.trained or ())):
            for part in parts:
                if not any(_matches(place, [part]) for place in places.values()):
                    known = sorted({p for place in places.values() for p in place})
                    raise ValueError(
                        f"{key}: found '{part}', but no part of the model with weights is called so"
                        f"{hint(part, known)}"
                    )
        frozen = {name for name, place in places.items() if _matches(place, self.frozen)}
        if self.trained is not None:
            frozen |= {name for name, place in places.items() if not _matches(place, self.trained)}
        return frozen


def hold_in(layer: nn.Module, dtype: torch.dtype) -> None:
    """Convert a frozen linear or convolutional layer, which then computes in that type and returns the type
    that it got."""
    layer.to(dtype)
    mix_in(layer, _HeldInLess)


def weight_places(model: nn.Module) -> set[str]:
    """Names of all parts of a model that have weights, down to the weights themselves."""
    names = (name for name, _ in model.named_parameters(remove_duplicate=False))
    return {place for name in names for place in _enclosing(name)}


def matches_part(name: str, part: str) -> bool:
    """Whether a weight is called `part`, as `Freeze` understands it, or belongs to a part that is."""
    return _matches(_enclosing(name), [part])


def literal(part: str) -> str:
    """A name for `Freeze` whose `*`, `?` and `[` stand for themselves."""
    return glob.escape(part)


def is_frozen(layer: nn.Module) -> bool:
    """Whether a layer has parameters of its own and trains none of them.

    A layer that trains some may move the others by itself, such as running scales.
    """
    own = list(layer.parameters(recurse=False))
    return bool(own) and not any(p.requires_grad for p in own)


def frozen_parts(model: nn.Module) -> list[str]:
    """Names of the parts of a model none of whose weights is trained, without the parts of such parts."""
    parts: list[str] = []
    for name, module in model.named_modules():
        own = list(module.parameters())
        within = any(name.startswith(f"{part}.") for part in parts)
        if name and own and not within and not any(p.requires_grad for p in own):
            parts.append(name)
    return parts


def convertible_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, layer) of the linear and convolutional layers outside of pretransforms, but for those that are
    held in a type of their own already."""
    kept = {id(m) for p in model.modules() if isinstance(p, Pretransform) for m in p.modules()}
    for name, layer in model.named_modules():
        own = plain_class(layer) is type(layer)
        if isinstance(layer, (nn.Linear, _ConvNd)) and own and id(layer) not in kept:
            yield name, layer


def _frozen_layers(model: nn.Module, names: set[str]) -> Iterator[nn.Module]:
    """Those of `convertible_layers` that are frozen, or all of whose parameters are among `names`."""
    for prefix, layer in convertible_layers(model):
        own = [
            (f"{prefix}.{name}" if prefix else name, p) for name, p in layer.named_parameters(recurse=False)
        ]
        if own and all(name in names or not p.requires_grad for name, p in own):
            yield layer


def _enclosing(name: str) -> list[str]:
    """The parameter and all parts that it belongs to: "a.b.c" -> "a", "a.b", "a.b.c"."""
    steps = name.split(".")
    return [".".join(steps[: i + 1]) for i in range(len(steps))]


def _matches(places: Sequence[str], parts: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(place, part) for place in places for part in parts)


class _HeldInLess:
    """Mixed into the class of a layer: compute in the type of its weights, return that of the input."""

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        layer: Any = super()
        if rounds(x):
            return layer.forward(x, *args, **kwargs)
        dtype = next(self.parameters(recurse=False)).dtype
        return layer.forward(x.to(dtype), *args, **kwargs).to(x.dtype)
