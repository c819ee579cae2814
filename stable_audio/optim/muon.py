"""Muon for hidden matrices, AdamW for all other weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from stable_audio.optim.owners import batches, work_on_whole
from stable_audio.optim.split import is_split, like_split, local

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

MATRICES = "matrices"
"""Key of a parameter group: how many matrices each weight stacks; 0: AdamW steps on them. Without the key, a
weight with two or more axes is one matrix."""

ADJUSTMENTS: dict[str, Callable[[int, int], float]] = {
    "original": lambda rows, columns: math.sqrt(max(1.0, rows / columns)),
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
}
"""Name -> factor of the learning rate of a matrix: by Jordan et al. 2024, or so that updates are as large as
those of AdamW (Liu et al. 2025, arXiv:2502.16982, equation 4)."""


class Muon(Optimizer):
    """Steps on matrices by their orthogonalised momentum (Jordan et al. 2024, "Muon: An optimizer for hidden
    layers in neural networks"), and on all other weights by AdamW.

    For a matrix with gradient G: M <- momentum M + (1 - momentum) G, U = G + momentum (M - G) with Nesterov's
    correction, else M; W <- (1 - lr weight_decay) W - lr a O(U), where O is about the nearest matrix with
    orthogonal rows or columns, and `a` follows from the shape. Kernels of convolutions are flattened to
    (output, input x taps). Matrices that are stacked in one weight are treated one by one.

    Matrices that are split over processes are put together, each on one process, which orthogonalises it and
    sends the rows back: no process does the work of another.

    Args:
        params: the weights, or groups of them; see `MATRICES`.
        lr: learning rate, of matrices and of all others.
        weight_decay: share of every weight that is taken away per step, times lr.
        momentum: decay of the average of a matrix's gradient.
        nesterov: whether the gradient counts once more beside its average.
        ns_coefficients: a, b, c of the step X <- a X + (b X X^T + c (X X^T)^2) X that orthogonalises.
        eps: least norm that a matrix is divided by before.
        ns_steps: number of these steps.
        adjust_lr_fn: a name in `ADJUSTMENTS`.
        betas: decays of AdamW's averages.
        adamw_eps: eps of AdamW.
        fused: use AdamW's fused kernel. On a GPU the whole step is then left out on the device where
            `found_inf`, an attribute that is set before it, is not 0.

    Raises:
        ValueError: a setting out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str = "match_rms_adamw",
        betas: tuple[float, float] = (0.9, 0.999),
        adamw_eps: float = 1e-8,
        *,
        fused: bool | None = None,
    ) -> None:
        if not 0 <= momentum < 1 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"momentum and betas must be in [0, 1), found {momentum} and {betas}")
        if lr < 0 or weight_decay < 0 or ns_steps < 1:
            raise ValueError(
                f"lr and weight_decay must be at least 0 and ns_steps at least 1, found {lr}, {weight_decay} "
                f"and {ns_steps}"
            )
        if adjust_lr_fn not in ADJUSTMENTS:
            raise ValueError(f"adjust_lr_fn must be {' or '.join(ADJUSTMENTS)}, found {adjust_lr_fn!r}")
        settings = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": tuple(ns_coefficients),
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
            "betas": tuple(betas),
            "adamw_eps": adamw_eps,
            "fused": fused,
        }
        super().__init__(params, settings)
        self._step_supports_amp_scaling = bool(fused)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns what `closure` does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        bad = getattr(self, "found_inf", None)
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            others = [p for p in moving if not _matrices(group, p)]
            split = [p for p in moving if _matrices(group, p) and is_split(p)]
            for p in moving:
                if _matrices(group, p) and not is_split(p):
                    self._move(p, _direction(self._update_of(p, group, bad), p, group), group, bad)
            if split:
                self._step_split(split, group, bad)
            if others:
                self._step_others(others, group, bad)
        return loss

    def _step_split(self, weights: list[DTensor], group: Mapping[str, Any], bad: Tensor | None) -> None:
        for batch in batches(weights):
            updates = [self._update_of(p, group, bad) for p in batch]
            work = partial(_direction, group=group)
            for p, direction in zip(batch, work_on_whole(batch, updates, work)):
                self._move(p, direction, group, bad)

    def _update_of(self, p: Tensor, group: Mapping[str, Any], bad: Tensor | None) -> Tensor:
        """What moves a weight, before it is orthogonalised: of a split one, this process's rows."""
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = _zeros_like(p)
        assert p.grad is not None
        average, gradient = local(state["momentum_buffer"]), local(p.grad)
        if bad is not None:  # on the device: keep average and weight as they are
            gradient = torch.where(bad > 0, average, gradient)
        average.lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(average, group["momentum"]) if group["nesterov"] else average

    def _move(self, p: Tensor, direction: Tensor, group: Mapping[str, Any], bad: Tensor | None) -> None:
        """Step on a weight, or on this process's rows of it, along the rows of an orthogonal direction."""
        rows = p.shape[0] // _matrices(group, p)
        rate = group["lr"] * ADJUSTMENTS[group["adjust_lr_fn"]](rows, math.prod(p.shape[1:]))
        share: float | Tensor = 1.0 if bad is None else (bad == 0).to(p.dtype)
        own = local(p)
        own.mul_(1 - group["lr"] * group["weight_decay"] * share)
        own.sub_(direction * (rate * share))

    def _step_others(self, weights: list[Tensor], group: Mapping[str, Any], bad: Tensor | None) -> None:
        for p in weights:
            state = self.state[p]
            if not state:
                place = p.device if group["fused"] else "cpu"
                state["step"] = torch.zeros((), dtype=torch.float32, device=place)
                state["exp_avg"], state["exp_avg_sq"] = _zeros_like(p), _zeros_like(p)
        states = [self.state[p] for p in weights]
        adamw(
            [local(p) for p in weights],
            [local(p.grad) for p in weights],  # type: ignore[arg-type]
            [local(s["exp_avg"]) for s in states],
            [local(s["exp_avg_sq"]) for s in states],
            [],
            [s["step"] for s in states],
            fused=bool(group["fused"]),
            grad_scale=None,
            found_inf=bad,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["adamw_eps"],
            maximize=False,
        )


def _direction(update: Tensor, p: Tensor, group: Mapping[str, Any]) -> Tensor:
    """The orthogonalised update of a weight, in its shape and type."""
    count = _matrices(group, p)
    direction = orthogonalised(
        update.reshape(count, p.shape[0] // count, -1),
        steps=group["ns_steps"],
        coefficients=group["ns_coefficients"],
        eps=group["eps"],
    )
    return direction.reshape(p.shape).to(p.dtype)


def _zeros_like(p: Tensor) -> Tensor:
    return like_split(p, torch.zeros_like(local(p))) if is_split(p) else torch.zeros_like(p)


def by_matrices(groups: Iterable[Mapping[str, Any]], matrices: Mapping[Any, int]) -> list[dict[str, Any]]:
    """Parameter groups, each divided by how many matrices its weights stack.

    Args:
        matrices: weight -> how many matrices; AdamW steps on all others.
    """
    divided = []
    for group in groups:
        weights = list(group["params"])
        for count in sorted({matrices.get(p, 0) for p in weights}, reverse=True):
            own = [p for p in weights if matrices.get(p, 0) == count]
            divided.append({**group, "params": own, MATRICES: count})
    return divided


def _matrices(group: Mapping[str, Any], p: Tensor) -> int:
    return int(group.get(MATRICES, 1 if p.ndim > 1 else 0))


def orthogonalised(x: Tensor, *, steps: int, coefficients: tuple[float, float, float], eps: float) -> Tensor:
    """About the nearest matrices with orthogonal rows or columns, by Newton-Schulz steps.

    In bfloat16 on a GPU, where the result need not be exact, else in float32.

    Args:
        x: (b m n) matrices.
    """
    a, b, c = coefficients
    y = x.to(torch.bfloat16 if x.device.type == "cuda" else torch.float32)
    tall = y.shape[1] > y.shape[2]
    if tall:
        y = y.mT
    y = y / torch.linalg.vector_norm(y, dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = y @ y.mT
        y = torch.baddbmm(y, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    return y.mT if tall else y
