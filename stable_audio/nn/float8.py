"""Products of linear layers in floats of 8 bits, for training.

Every operand is scaled to the range of its type by its own greatest value ("dynamic scaling"), rounded, and
multiplied with float32 sums, by torchao (formats: Micikevicius et al. 2022, arXiv:2209.05433). Weights, their
gradients and the optimizer keep their types.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.nn.matrices import vector_layers
from stable_audio.nn.mixing import mix_in, plain_class
from stable_audio.nn.precision import rounds
from stable_audio.optim.torchao_classes import importing

Scaling = Literal["tensorwise", "rowwise"]
"""What shares a scale: a whole operand (values in e4m3, gradients of outputs in e5m2), or each of its rows or
columns along which products sum (all in e4m3, scales are powers of two)."""

MULTIPLE = 16
"""Of which both widths of a layer have to be multiples, for the kernels of GPUs."""


def float8_layers(blocks: Sequence[nn.Module], matrices: Collection[nn.Parameter]) -> list[nn.Linear]:
    """The layers whose products can be in 8 bits: plain linear ones for frames or tokens, in blocks.

    Args:
        blocks: of a backbone.
        matrices: weights that count as hidden matrices, see `stable_audio.nn.matrices`.
    """
    known = {id(weight) for weight in matrices}
    vectors = {id(layer) for block in blocks for layer in vector_layers(block)}
    found: dict[int, nn.Linear] = {}
    for layer in (part for block in blocks for part in block.modules()):
        if isinstance(layer, nn.Linear) and id(layer) not in vectors and _is_plain(layer):
            weight = layer._parameters.get("weight")
            if id(weight) in known and layer.in_features % MULTIPLE == layer.out_features % MULTIPLE == 0:
                found[id(layer)] = layer
    return list(found.values())


def _is_plain(layer: nn.Module) -> bool:
    own = plain_class(layer) is type(layer)
    return own and not layer._modules and not layer._forward_hooks and not layer._forward_pre_hooks


def compute_in_float8(
    module: nn.Module, layers: Sequence[nn.Linear], *, scaling: Scaling, emulated: bool = False
) -> list[str]:
    """Put torchao's layers, which train in 8 bits, in the place of linear ones, with the same weights.

    Where no gradients are recorded, as in validation and for demos, they compute as before.

    Args:
        module: all of them are in it.
        layers: see `float8_layers`.
        scaling: what shares a scale.
        emulated: round to 8 bits, but multiply in float32, on any device.

    Returns:
        their names.

    Raises:
        ImportError: torchao is not installed, or too old.
    """
    torchao = load_torchao()
    chosen = {id(layer): layer.training for layer in layers}
    training = {name: chosen[id(part)] for name, part in module.named_modules() if id(part) in chosen}
    config = torchao.Float8LinearConfig.from_recipe_name(scaling)
    # Gradients of weights sum over frames, whose number need not be a multiple.
    config = replace(config, pad_inner_dim=True, emulate=emulated)
    torchao.convert_to_float8_training(
        module, config=config, module_filter_fn=lambda layer, _: id(layer) in chosen
    )
    _finish(module, training)
    return list(training)


def _finish(module: nn.Module, training: Mapping[str, bool]) -> None:
    for name, mode in training.items():
        layer = module.get_submodule(name)
        mix_in(layer, _Float8)
        layer.train(mode)


class _Float8:
    """Mixed into the class of torchao's layer."""

    def forward(self: Any, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return F.linear(x, self.weight, self.bias)
        if rounds(x):  # torchao asks for the type of a GPU's autocast only
            x = x.to(torch.get_autocast_dtype(x.device.type))
        layer: Any = super()
        product: Tensor = layer.forward(x)
        return product


def load_torchao() -> Any:
    """The package `torchao.float8`.

    Raises:
        ImportError: torchao is not installed, or too old.
    """
    with importing("torchao.float8", needed_by="training in 8-bit floats"):
        import torchao.float8 as torchao
    return torchao
