"""Assign the noise of a batch to its data so that paths are short: mini-batch optimal transport."""

from __future__ import annotations

import torch
from torch import Tensor

ITERATIONS = 20


def coupled(x0: Tensor, noise: Tensor) -> Tensor:
    """The index into `noise` (b,) for each item of x0, a permutation, for short straight paths.

    Entropic optimal transport between both batches (Cuturi 2013; for flows Tong et al. 2023 and Pooladian et
    al. 2023) with squared distances in units of their mean, 20 Sinkhorn iterations in logarithms; then each
    item in turn takes what is most probable of the noise that is left.

    Args:
        x0: clean latents (b c n).
        noise: (b c n).
    """
    cost = (x0.flatten(1).float()[:, None] - noise.flatten(1).float()[None]).square().sum(-1)
    plan = -cost / cost.mean().clamp(min=torch.finfo(cost.dtype).tiny)
    for _ in range(ITERATIONS):
        plan = plan - plan.logsumexp(1, keepdim=True)
        plan = plan - plan.logsumexp(0, keepdim=True)
    return _rounded(plan.cpu()).to(noise.device)


def _rounded(plan: Tensor) -> Tensor:
    """Row by row the largest entry of the columns that are left, the first of equals."""
    columns: list[int] = []
    for row in plan.clone():
        row[columns] = -torch.inf
        columns.append(int(row.argmax()))
    return torch.tensor(columns)
