"""Exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stable_audio.optim.averaging import AveragingRule
from stable_audio.optim.split import is_split, like_split, local
from stable_audio.options import Flat, takes_keywords
from stable_audio.training.optimisation.staging import HostStaging
from stable_audio.training.processes.gathering import copy_whole, whole


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """Whether weights are averaged, and how.

    Attributes:
        use_ema: average the weights.
        ema_options: keywords of `AveragingRule`.
    """

    use_ema: bool = True
    ema_options: Mapping[str, Any] | None = None

    def average(self, module: nn.Module, *, parts: Sequence[str] | None = None) -> EMA | None:
        """The average of a module, which is made when the fit starts; None: there is none."""
        return EMA(module, parts=parts, deferred=True, **(self.ema_options or {})) if self.use_ema else None


class EMA:
    """Average of a module's parameters and floating buffers; everything else is copied.

    After n updates the decay is 0 for n <= update_after_step + 1 (the average is a copy), then
    `1 - (1 + (n - update_after_step - 1) / inv_gamma) ** -power`, at least min_value and at most beta: the
    warm-up of Crowson's k-diffusion, with stable-audio-tools' settings as defaults. The average starts from a
    copy at the first update past the wait, whatever the decay.

    Frozen parts of the module are not averaged, since they do not change. The average is split over
    processes as the weights are.

    Weights of less than 32 bits are averaged in float32: at a decay of 0.9999 a bfloat16 average would
    never change. The update is fused over all tensors of a type.

    With `device` "cpu" in its rule, the average of weights on a GPU is in the memory of the host. They are
    copied there while the GPU goes on with the next step, and averaged in a thread, with the same arithmetic;
    whatever reads the average waits for that. What is about to change the weights calls `hold` first.

    Args:
        module: whose weights are averaged. Its submodules stay the ones that it has now.
        parts: names of submodules to average (prefixes of keys); None averages everything.
        rule: the decay; its fields are keywords as well.
        deferred: make the average at `start` or first use, once a run has moved its weights to their device
            and split them over processes.

    """

    @takes_keywords
    def __init__(
        self,
        module: nn.Module,
        *,
        parts: Sequence[str] | None = None,
        rule: Flat[AveragingRule] = AveragingRule(),  # noqa: B008 (frozen)
        deferred: bool = False,
    ) -> None:
        self.rule = rule
        self._module = module
        self._parts = None if parts is None else tuple(f"{p}." for p in parts)
        self.step = 0
        self.initialised = False
        self._places: list[_Place] = []
        self._frozen: list[_Place] = []
        self._average: dict[str, Tensor] | None = None
        self._staging = HostStaging()
        if not deferred:
            self.start()

    def start(self) -> None:
        """Make the average, a copy of the module's current weights."""
        # Only weights that checkpoints hold, without scratch buffers and frozen encoders.
        keys = frozenset(k for k in self._module.state_dict(keep_vars=True) if self._is_averaged(k))
        places = _places(self._module, keys)
        self._places = [place for place in places if not _rests(place)]
        self._frozen = [place for place in places if _rests(place)]
        self._staging.settle()
        self._average = {key: _shadow(tensor, self.rule.device) for key, tensor in self._tracked().items()}

    @property
    def average(self) -> dict[str, Tensor]:
        """The averaged weights by key."""
        if self._average is None:
            self.start()
        assert self._average is not None
        self._staging.settle()
        return self._average

    def decay(self) -> float:
        """Weight of the old average at the current step."""
        rule = self.rule
        age = self.step - rule.update_after_step - 1
        if age <= 0:
            return 0.0
        return min(max(1 - (1 + age / rule.inv_gamma) ** -rule.power, rule.min_value), rule.beta)

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the module's weights. Call it once per optimizer step."""
        step, self.step = self.step, self.step + 1
        if step % self.rule.update_every:
            return
        wait = self.rule.update_after_step
        if step <= wait or not self.initialised:
            self.initialised = step > wait
            self._blend(1.0)
        else:
            self._blend(1 - self.decay())

    def hold(self) -> None:
        """Let a GPU change the weights only once their copies for the average are made. The host does not
        wait."""
        self._staging.hold()

    def _blend(self, weight: float) -> None:
        """average += weight * (current - average)."""
        averaged, current = self.average, self._tracked()
        if self.rule.device is not None and _is_elsewhere(current, self.rule.device):
            self._staging.submit(self._as_they_are(), partial(self._blend_with, averaged, weight))
        else:
            self._blend_with(averaged, weight, current)

    @torch.no_grad()
    def _blend_with(self, averaged: dict[str, Tensor], weight: float, currents: Mapping[str, Tensor]) -> None:
        """One fused operation per type, on what this process has of each tensor."""
        groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for key, current in currents.items():
            if averaged[key].device != current.device:
                averaged[key] = _moved(averaged[key], current.device)
            average, current = local(averaged[key]), local(current)
            if not average.is_floating_point() or weight == 1.0:
                average.copy_(current)
                continue
            averages, values = groups.setdefault(average.dtype, ([], []))
            averages.append(average)
            values.append(current.to(average.dtype))
        for averages, values in groups.values():
            torch._foreach_lerp_(averages, values, weight)

    @contextmanager
    def swapped(self) -> Iterator[nn.Module]:
        """Context in which the module has averaged weights; its own are always restored at the end.

        Parameters and their average are exchanged, so that no second set of weights is made (except for
        parameters of less than 32 bits). Buffers are copied, since a forward pass may write to them, and so
        are split parameters, whose storage must not be replaced. Where the average is in the memory of the
        host, the weights are there for as long.
        """
        originals: list[tuple[Tensor, Tensor]] = []
        averaged = self.average
        try:
            for key, owner, name in self._places:
                tensor = owner[name]
                originals.append((tensor, _exchange(tensor, averaged[key])))
            yield self._module
        finally:
            for tensor, value in originals:
                _exchange(tensor, value)

    def state_dict(self, *, gathered: bool = True) -> dict[str, Any]:
        """Average and counters, as tensors and plain values. Every process of a run must call it.

        Frozen weights, which equal their average, are included.

        Args:
            gathered: whole tensors; otherwise each process has its parts.
        """
        averaged, frozen = self.average, {k: owner[name].detach() for k, owner, name in self._frozen}
        frozen = {k: _shadow(v) if _is_low(v) else v for k, v in frozen.items()}
        tensors = whole({**frozen, **averaged}, everywhere=True) if gathered else {**frozen, **averaged}
        return {"step": self.step, "initialised": self.initialised, "average": tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`.

        Raises:
            ValueError: it has other weights.
        """
        averaged = self.average
        stored, frozen = set(state["average"]), {place.key for place in self._frozen}
        differing = (stored - frozen) ^ set(averaged)  # frozen weights are what they are
        if differing:
            raise ValueError(
                f"the stored average has other weights: {sorted(differing)[:5]} are on one side only"
            )
        self.step, self.initialised = state["step"], state["initialised"]
        with torch.no_grad():
            for key, average in averaged.items():
                copy_whole(average, state["average"][key])

    def _tracked(self) -> dict[str, Tensor]:
        """The module's tensors by key, looked up at every call, since moving a module replaces buffers."""
        return {key: owner[name].detach() for key, owner, name in self._places}

    def _as_they_are(self) -> dict[str, Tensor]:
        """What this process has of the module's tensors, which stay what they are until `hold`: those that a
        forward pass may change, such as codebooks and running scales, are copied at once."""
        parts: dict[str, Tensor] = {}
        for key, owner, name in self._places:
            tensor = owner[name]
            part = local(tensor.detach())
            parts[key] = part if tensor.requires_grad else part.clone()
        return parts

    def _is_averaged(self, key: str) -> bool:
        return self._parts is None or key.startswith(self._parts)


class _Place(NamedTuple):
    """The place of a tensor: the parameters or buffers of one submodule, and its name there."""

    key: str
    owner: dict[str, Any]
    name: str


def _places(module: nn.Module, keys: Collection[str]) -> list[_Place]:
    """Places of the tensors with these keys, parameters first; a tensor with several keys counts once."""
    members = list(module.named_modules())
    owners = [(k, m._parameters) for k, m in members] + [(k, m._buffers) for k, m in members]
    places: dict[int, _Place] = {}
    for prefix, owner in owners:
        for name, tensor in owner.items():
            key = f"{prefix}.{name}" if prefix else name
            if tensor is not None and key in keys:
                places.setdefault(id(tensor), _Place(key, owner, name))
    return list(places.values())


def _rests(place: _Place) -> bool:
    """Whether it is a parameter of a layer that is completely frozen. A layer that trains may change frozen
    parameters itself, such as running scales."""
    parameters = [p for p in place.owner.values() if isinstance(p, nn.Parameter)]
    return bool(parameters) and not any(p.requires_grad for p in parameters)


@torch.no_grad()
def _exchange(tensor: Tensor, value: Tensor) -> Tensor:
    """Set `tensor` to `value` and return its previous value."""
    if tensor.device != value.device:
        previous = _moved(tensor, value.device)
        local(tensor).copy_(local(value))
        return previous
    if isinstance(tensor, nn.Parameter) and not is_split(tensor):
        previous, tensor.data = tensor.data, value.to(tensor)
        return previous
    previous = tensor.clone()
    tensor.copy_(value)
    return previous


def _shadow(tensor: Tensor, device: str | None = None) -> Tensor:
    dtype = torch.float32 if _is_low(tensor) else tensor.dtype
    return _moved(tensor, device or tensor.device, dtype)


@torch.no_grad()
def _moved(tensor: Tensor, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """A copy on a device, split as the tensor is."""
    if is_split(tensor):
        return like_split(tensor, tensor.to_local().to(device, dtype or tensor.dtype, copy=True))
    return tensor.detach().to(device, dtype or tensor.dtype, copy=True)


def _is_elsewhere(tensors: Mapping[str, Tensor], device: str) -> bool:
    return any(tensor.device.type != device for tensor in tensors.values())


def _is_low(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.element_size() < 4
