"""What a sound would go on like for some milliseconds, by linear prediction."""

from __future__ import annotations

import torch
from torch import Tensor

ORDER = 256
"""Coefficients of the prediction."""

CONTEXT = 8
"""Samples that they are estimated from, per coefficient."""


def extrapolated(audio: Tensor, count: int, *, order: int = ORDER) -> Tensor:
    """The `count` samples that would follow `audio` (c n), (c count).

    Every channel goes on by the prediction that fits its last samples best, forwards and backwards, among
    those whose echo does not grow (Burg 1967): partials go on in phase, noise dies away.

    Args:
        order: coefficients; fewer for sounds of less than twice as many samples.
    """
    rows = [_followed(row.double(), count, order) for row in audio]
    return torch.stack(rows).to(audio.dtype)


def _followed(samples: Tensor, count: int, order: int) -> Tensor:
    past = samples[-CONTEXT * order :]
    order = min(order, len(past) // 2)
    if order < 1 or not past.any():
        return samples.new_zeros(count)
    coefficients = burg(past, order).flip(0)
    line = torch.cat([past[-order:], past.new_zeros(count)])
    for i in range(count):
        line[order + i] = coefficients @ line[i : order + i]
    return line[order:]


def burg(samples: Tensor, order: int) -> Tensor:
    """Coefficients (order,) of the prediction of a sample from those before it, the nearest first.

    Burg's method: each reflection coefficient minimises the sum of the squared errors forwards and backwards,
    which keeps it within 1.
    """
    coefficients = samples.new_zeros(0)
    forward, backward = samples[1:].clone(), samples[:-1].clone()
    for _ in range(order):
        energy = forward @ forward + backward @ backward
        if energy <= 0:
            break
        reflection = 2 * (forward @ backward) / energy
        coefficients = torch.cat([coefficients - reflection * coefficients.flip(0), reflection.reshape(1)])
        forward, backward = (
            (forward - reflection * backward)[1:],
            (backward - reflection * forward)[:-1],
        )
    return torch.cat([coefficients, samples.new_zeros(order - len(coefficients))])
