"""Optimizers and learning-rate schedulers by name, checked before training starts."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from stable_audio.optim.checks import option_mistakes
from stable_audio.optim.low_bit import AdamW4bit, AdamW8bit, AdamWBF16, AdamWFp8
from stable_audio.optim.muon import Muon
from stable_audio.optim.split import is_split
from stable_audio.wording import hint

T = TypeVar("T")
Params = Iterable[Tensor] | Iterable[nn.Parameter] | Iterable[dict[str, Any]]


class InverseLR(LRScheduler):
    """Inverse decay with exponential warm-up.

    lr(n) = (1 - warmup^(n + 1)) max(final_lr, lr_0 (1 + n / inv_gamma)^-power), n counting steps from 0.

    Args:
        inv_gamma: steps after which the rate has fallen to 2^-power of its start.
        power: exponent of the decay.
        warmup: base of the warm-up, in [0, 1); 0 = none.
        final_lr: the rate does not decay below it.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        inv_gamma: float = 1.0,
        power: float = 1.0,
        warmup: float = 0.0,
        final_lr: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup must be in [0, 1), found {warmup}")
        if inv_gamma <= 0:
            raise ValueError(f"inv_gamma must be above 0, found {inv_gamma}")
        self.inv_gamma = inv_gamma
        self.power = power
        self.warmup = warmup
        self.final_lr = final_lr
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """The rate of every parameter group at the current step."""
        n = self.last_epoch
        ramp = 1 - self.warmup ** (n + 1)
        decay = (1 + n / self.inv_gamma) ** -self.power
        return [ramp * max(self.final_lr, base * decay) for base in self.base_lrs]


class OneCycleLR(lr_scheduler.OneCycleLR):
    """torch's OneCycleLR, whose length follows its options even after a resume.

    torch saves the length with the position, so that a run resumed with more steps would end at the old one.
    """

    _LENGTH = ("total_steps", "_schedule_phases")

    def state_dict(self) -> dict[str, Any]:
        return {k: v for k, v in super().state_dict().items() if k not in self._LENGTH}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({k: v for k, v in state_dict.items() if k not in self._LENGTH})


class FusedAdam(torch.optim.AdamW):
    """AdamW under the name in published configs, and without weight decay by default."""

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, fused=fused
        )


def _classes(module: Any, base: type, *abstract: str) -> dict[str, type]:
    return {
        name: member
        for name, member in vars(module).items()
        if inspect.isclass(member)
        and issubclass(member, base)
        and not name.startswith("_")
        and name not in abstract
    }


OPTIMIZERS: dict[str, type[Optimizer]] = {
    **_classes(torch.optim, Optimizer, "Optimizer"),
    "FusedAdam": FusedAdam,
    "Muon": Muon,
    "AdamW8bit": AdamW8bit,
    "AdamW4bit": AdamW4bit,
    "AdamWFp8": AdamWFp8,
    "AdamWBF16": AdamWBF16,
}
LR_SCHEDULERS: dict[str, type[LRScheduler]] = {
    **_classes(lr_scheduler, LRScheduler, "LRScheduler"),
    "InverseLR": InverseLR,
    "OneCycleLR": OneCycleLR,
}
_FUSED_DEVICES = frozenset({"cuda", "cpu", "mps", "xpu"})
_FUSED_WHOLE = (torch.optim.SGD, torch.optim.Adagrad)
"""Optimizers whose fused kernel does not take parts of weights."""


def build_optimizer(config: Mapping[str, Any], params: Params) -> Optimizer:
    """`{"type": "AdamW", "config": {"lr": 1e-4}}` -> optimizer over `params`.

    The fused implementation is used where the optimizer has one and every parameter is on a device that
    supports it, unless the config says `fused`, `foreach` or `differentiable` itself.

    Raises:
        ValueError: unknown type or option; the message lists what is allowed.
        ImportError: the optimizer needs a package that is not installed; the message names the extra.
    """
    cls, options = resolve(config, OPTIMIZERS, "optimizer")
    groups: list[Any] = list(params)
    if "fused" in inspect.signature(cls).parameters and _can_fuse(cls, groups, options):
        options["fused"] = True
    return cls(groups, **options)


def build_scheduler(config: Mapping[str, Any], optimizer: Optimizer, *, steps: int = -1) -> LRScheduler:
    """`{"type": "InverseLR", "config": {"inv_gamma": 1e6, "power": 0.5}}` -> scheduler, stepped every step.

    Args:
        steps: number of steps of the run, -1 = no end; OneCycleLR uses it where its options give no length.

    Raises:
        ValueError: unknown type or option, a length that is missing, or ReduceLROnPlateau, which needs a
            metric at every step.
    """
    cls, options = resolve(config, LR_SCHEDULERS, "LR scheduler")
    if issubclass(cls, OneCycleLR) and schedule_length(config) is None:
        if steps < 1:
            raise ValueError(
                "LR scheduler 'OneCycleLR' ends, but the run does not; give --max-steps, or total_steps here"
            )
        options["total_steps"] = steps
    if issubclass(cls, ReduceLROnPlateau):
        raise ValueError(
            "LR scheduler 'ReduceLROnPlateau' needs a metric, which a step-wise schedule does not have"
        )
    if issubclass(cls, OneCycleLR) and options.get("pct_start", 0.3) * (options.get("total_steps") or 0) == 1:
        # torch divides by the length of the rise, which would be 0: make it slightly longer.
        options["pct_start"] = math.nextafter(options.get("pct_start", 0.3), 1)
    return cls(optimizer, **options)


def schedule_length(config: Mapping[str, Any] | None) -> int | None:
    """Number of steps after which an LR schedule ends and must not be stepped again.

    None: it never ends, or it ends with the run.
    """
    options = (config or {}).get("config") or {}
    if config is None or config.get("type") != "OneCycleLR":
        return None
    if options.get("total_steps") is not None:
        return int(options["total_steps"])
    if options.get("epochs") is not None and options.get("steps_per_epoch") is not None:
        return int(options["epochs"]) * int(options["steps_per_epoch"])
    return None


def resolve(
    config: Mapping[str, Any], registry: Mapping[str, type[T]], kind: str
) -> tuple[type[T], dict[str, Any]]:
    """The class that `config["type"]` names and a copy of `config["config"]`, both checked."""
    name = config.get("type")
    if not isinstance(name, str) or name not in registry:
        raise ValueError(
            f"unknown {kind} {name!r}{hint(name, registry)}; known: {', '.join(sorted(registry))}"
        )
    cls, options = registry[name], dict(config.get("config") or {})
    for option, message in option_mistakes(cls, options).items():
        raise ValueError(f"{kind} '{name}', option '{option}': {message}")
    _tuples(options, ("betas", "etas", "step_sizes", "ns_coefficients"))
    return cls, options


def _tuples(options: dict[str, Any], names: Iterable[str]) -> None:
    """Turn the lists of JSON into the tuples that torch expects, in place."""
    for name in names:
        if isinstance(options.get(name), list):
            options[name] = tuple(options[name])


def _can_fuse(cls: type[Optimizer], groups: list[Any], options: Mapping[str, Any]) -> bool:
    if any(o in options for o in ("fused", "foreach", "differentiable")):
        return False
    tensors = [p for g in groups for p in (g["params"] if isinstance(g, dict) else [g])]
    if issubclass(cls, _FUSED_WHOLE) and any(is_split(p) for p in tensors):
        return False
    return bool(tensors) and all(
        isinstance(p, Tensor) and p.device.type in _FUSED_DEVICES and p.is_floating_point() for p in tensors
    )
