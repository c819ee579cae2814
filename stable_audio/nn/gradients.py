"""Where a layer may write its gradient itself instead of leaving it to automatic differentiation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

EAGER = ("cpu", "cuda")
"""Types of devices whose operations run one by one, so that fewer of them are faster."""


def writes_gradient(x: Tensor) -> bool:
    """Whether a layer with input x writes its own gradient, which takes fewer passes over memory, and less of
    it, as plans of memory count.

    Not while compiling, since the compiler joins passes itself.
    """
    return x.device.type in EAGER and not torch.compiler.is_compiling() and is_differentiated(x)


def is_differentiated(*inputs: Tensor) -> bool:
    """Whether a gradient goes back to one of the inputs.

    False where derivatives go forwards or are transformed (torch.func), which need the plain operations.
    """
    if not torch.is_grad_enabled() or not any(x.requires_grad for x in inputs):
        return False
    return torch.compiler.is_compiling() or not is_transformed()


def is_only_computed(x: Tensor) -> bool:
    """Whether a layer with input x may write into tensors, or take a library that knows no derivatives: on a
    CPU or a CUDA device, where nothing is differentiated, transformed or compiled."""
    return (
        x.device.type in EAGER
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not is_transformed()
    )


def is_transformed() -> bool:
    """Whether derivatives go forwards, or operations are transformed by torch.func."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def has_values(x: Tensor) -> bool:
    """False for a tensor that is a shape alone, by which memory and operations are planned."""
    return torch.compiler.is_compiling() or x.untyped_storage().device.type != "meta"
