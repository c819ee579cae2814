"""The adapters of one model: add, remove, weigh, gate by noise level, merge."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stable_audio.adapters.errors import AdapterError
from stable_audio.adapters.files import BACKBONE, Adapter
from stable_audio.adapters.layers import (
    adaptable_layers,
    add_update,
    own_weight,
    remove_update,
    updates_of,
)
from stable_audio.adapters.patterns import filtered, matches, selected
from stable_audio.adapters.settings import AdapterSettings
from stable_audio.adapters.updates import ADAPTER_TYPES, FeatureMask, WeightUpdate, drop_features
from stable_audio.wording import names


@dataclass(frozen=True)
class Gate:
    """Where an adapter applies in the backbone.

    Attributes:
        interval: noise levels (sigma) with both ends.
        layer_filter: layers to which it does not apply, by parts of their names in the backbone with commas
            between them; see `patterns.filtered`.
    """

    interval: tuple[float, float] = (0.0, 1.0)
    layer_filter: str = ""

    def __post_init__(self) -> None:
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"interval must be 0 <= low <= high <= 1, found {(low, high)}")

    @property
    def always(self) -> bool:
        """Whether the noise level does not matter."""
        return tuple(self.interval) == (0.0, 1.0)

    def open_at(self, sigma: float) -> bool:
        """Whether the noise level is within the interval."""
        return self.interval[0] <= sigma <= self.interval[1]


class AdapterStack:
    """The adapters of a model, which apply to each layer in the order in which they were added.

    Args:
        backbone: its layers are called `model.` and their name in it.
        conditioner: its layers are called by their name in it.
    """

    def __init__(self, backbone: nn.Module, conditioner: nn.Module | None = None) -> None:
        self.layers: dict[str, nn.Module] = {
            BACKBONE + name: layer for name, layer in adaptable_layers(backbone)
        }
        if conditioner is not None:
            self.layers |= dict(adaptable_layers(conditioner))
        self.settings: dict[int, AdapterSettings] = {}
        # After those of a stack that the model has already.
        present = [int(key) for layer in self.layers.values() for key in updates_of(layer)]
        self._next = max(present, default=-1) + 1

    def add(
        self,
        adapter: Adapter | AdapterSettings,
        *,
        feature_mask: FeatureMask = drop_features,
        by_activations: bool = False,
        change_base: Callable[[], None] | None = None,
    ) -> int:
        """Add an adapter, with the tensors of a file or with values that change nothing yet.

        Args:
            feature_mask: draws of dropout.
            by_activations: see `WeightUpdate`; the layers' own weights must stay as they are.
            change_base: changes the weights of the layers, such as their type, once singular vectors are
                known, which so do not depend on it.

        Returns:
            its index, by which the other methods know it.

        Raises:
            AdapterError: the model lacks a layer of it or has one of another size, or no layer is selected.
        """
        tensors: Mapping[str, Mapping[str, Tensor]] = {}
        if isinstance(adapter, Adapter):
            settings, tensors = adapter.settings, adapter.layers
            self.check(adapter)
            chosen: Collection[str] = tensors
        else:
            settings = adapter
            chosen = self.selection(settings.include, settings.exclude)
        index = self._next
        updates = {
            name: _new_update(own_weight(layer), settings, tensors.get(name), feature_mask)
            for name, layer in self.layers.items()
            if name in chosen
        }
        if change_base is not None:
            change_base()
        for name, update in updates.items():
            if change_base is not None and name not in tensors:
                update.restart_norms(own_weight(self.layers[name]))
            if by_activations:
                update.compute_by_activations(own_weight(self.layers[name]))
            add_update(self.layers[name], str(index), update)
        self.settings[index] = settings
        self._next += 1
        return index

    def selection(
        self, include: Sequence[str] | None = None, exclude: Sequence[str] | None = None
    ) -> list[str]:
        """Names of the layers that `include` and `exclude` select.

        Raises:
            AdapterError: a pattern of `include` matches no layer, or no layer is left.
        """
        for pattern in include or ():
            if not any(matches(name, [pattern]) for name in self.layers):
                raise AdapterError(
                    f"include: '{pattern}' is part of no layer's name; layers are called "
                    f"{names(self.layers, 4)}, and numbers are given as in layers.[0-11]"
                )
        chosen = [name for name in self.layers if selected(name, include, exclude)]
        if not chosen:
            raise AdapterError("include and exclude leave no layer; name fewer in exclude")
        return chosen

    def remove(self, index: int) -> None:
        """Remove an adapter; the others keep their indices."""
        for _, layer, _ in list(self._updates(index)):
            remove_update(layer, str(index))
        del self.settings[index]

    def set_strength(
        self, index: int, *, backbone: float | None = None, conditioner: float | None = None
    ) -> None:
        """Set the factor of an adapter's low-rank terms; at 0 it does nothing. None leaves it."""
        for name, _, update in self._updates(index):
            strength = backbone if name.startswith(BACKBONE) else conditioner
            if strength is not None:
                update.strength = float(strength)

    def gate(self, sigma: float, gates: Mapping[int, Gate]) -> None:
        """Turn adapters on or off in the backbone at a noise level; those without a gate stay as they are."""
        for index, rule in gates.items():
            open_ = rule.open_at(sigma)
            for name, _, update in self._updates(index):
                if name.startswith(BACKBONE):
                    update.enabled = open_ and not filtered(name.removeprefix(BACKBONE), rule.layer_filter)

    def parameters(self, index: int) -> Iterator[nn.Parameter]:
        """The trained tensors of an adapter."""
        for _, _, update in self._updates(index):
            yield from update.parameters()

    def adapter(self, index: int) -> Adapter:
        """An adapter as it is now, with copies of its tensors on the CPU, to be written to a file."""
        layers = {
            name: {key: value.detach().cpu().clone() for key, value in update.named_parameters()}
            for name, _, update in self._updates(index)
        }
        return Adapter(self.settings[index], layers)

    @torch.no_grad()
    def merge(self) -> None:
        """Write the updated weights into the layers and remove all adapters, those of other stacks included.

        The layers get new tensors: those of a model that shares the old ones stay as they are.
        """
        for layer in self.layers.values():
            keys = list(updates_of(layer))
            if keys:
                _set_weight(layer, layer.weight.detach().clone())  # type: ignore[operator]
            for key in keys:
                remove_update(layer, key)
        self.settings.clear()

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """The updated weight of every layer that has an active update, by name."""
        return {
            name: layer.weight.detach().clone()  # type: ignore[operator]
            for name, layer in self.layers.items()
            if any(u.active for u in updates_of(layer).values())  # type: ignore[union-attr]
        }

    def _updates(self, index: int) -> Iterator[tuple[str, nn.Module, WeightUpdate]]:
        for name, layer in self.layers.items():
            updates = updates_of(layer)
            if str(index) in updates:
                yield name, layer, updates[str(index)]  # type: ignore[misc]

    def check(self, adapter: Adapter) -> None:
        """Raise AdapterError if the model lacks a layer of an adapter, or has one of another size."""
        if unknown := [name for name in adapter.layers if name not in self.layers]:
            raise AdapterError(
                f"{adapter.source}: belongs to another model: this one has no {names(unknown, 3)} "
                f"({len(unknown)} of the adapter's {len(adapter.layers)} layers); use the model that it was "
                "trained on"
            )
        for name, tensors in adapter.layers.items():
            expected = _shapes(own_weight(self.layers[name]), adapter.settings, tensors)
            found = {key: tuple(value.shape) for key, value in tensors.items()}
            if found != expected:
                raise AdapterError(
                    f"{adapter.source}: {name} has tensors of the shapes {found}, but this layer needs "
                    f"{expected}; use the model that it was trained on"
                )


@torch.no_grad()
def merge_weighted(stack: AdapterStack, weighted: Sequence[tuple[Adapter, float]]) -> None:
    """Merge several adapters as stable-audio-3 does: W + sum of weight (W_i - W).

    W_i is the weight with one adapter alone at strength 1, so that adapters do not act on each other as they
    do in a stack.

    Args:
        stack: of the model, without adapters yet.
    """
    sums: dict[str, Tensor] = {}
    for adapter, factor in weighted:
        index = stack.add(adapter)
        for name, weight in stack.weights().items():
            base = stack.layers[name]._parameters["weight"]
            assert base is not None
            sums[name] = sums.get(name, 0) + factor * (weight.float() - base.float())
        stack.remove(index)
    for name, change in sums.items():
        layer = stack.layers[name]
        base = layer._parameters["weight"]
        assert base is not None
        _set_weight(layer, (base.float() + change).to(base.dtype))


def _set_weight(layer: nn.Module, value: Tensor) -> None:
    old = layer._parameters["weight"]
    assert old is not None
    layer._parameters["weight"] = nn.Parameter(value, requires_grad=old.requires_grad)


def _new_update(
    weight: Tensor,
    settings: AdapterSettings,
    tensors: Mapping[str, Tensor] | None,
    feature_mask: FeatureMask,
) -> WeightUpdate:
    kind = ADAPTER_TYPES[settings.adapter_type]
    update = kind.update(
        weight,
        rank=settings.rank if tensors is None else _rank(tensors),
        scaling=settings.scaling,
        rescaling=kind.rescaling(),
        dropout=settings.dropout,
        feature_mask=feature_mask,
    )
    if tensors is not None:
        with torch.no_grad():
            for name, parameter in update.named_parameters():
                parameter.copy_(tensors[name])
    return update


def _rank(tensors: Mapping[str, Tensor]) -> int:
    return next(tensors[key].shape[0] for key in ("lora_A", "M_xs") if key in tensors)


def _shapes(
    weight: Tensor, settings: AdapterSettings, tensors: Mapping[str, Tensor]
) -> dict[str, tuple[int, ...]]:
    """The shapes that the tensors of an adapter must have at a weight."""
    outputs, inputs = weight.shape
    rank = _rank(tensors)
    square = min(rank, outputs, inputs)
    shapes = {"lora_A": (rank, inputs), "lora_B": (outputs, rank), "M_xs": (square, square)}
    kind = ADAPTER_TYPES[settings.adapter_type]
    lengths = {name: (outputs if axis == 1 else inputs,) for name, axis in kind.rescaling.axes.items()}
    return {name: {**shapes, **lengths}[name] for name in tensors}
