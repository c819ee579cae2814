"""Which weights of a network are matrices between its hidden features; some optimizers treat them apart."""

from __future__ import annotations

from torch import nn

from stable_audio.nn.checkpointing import Checkpointed

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)

STACKED = "stacked_matrices"
"""Attribute of modules with layers that compute several products at once, such as queries, keys and values:
name of the layer -> how many matrices its weight stacks, one upon the other."""

VECTORS = "vector_layers"
"""Attribute of modules that make scales and shifts of a vector per item: names of the parts which see such
vectors, and neither frames nor tokens."""


def vector_layers(module: nn.Module) -> list[nn.Module]:
    """All parts of a module that see one vector per item."""
    places = [(part, name) for part in module.modules() for name in getattr(part, VECTORS, ())]
    roots = [root for part, name in places if (root := getattr(part, name)) is not None]
    return [inner for root in roots for inner in root.modules()]


def hidden_matrices(module: nn.Module) -> dict[nn.Parameter, int]:
    """Trained weights of linear layers and convolutions in the blocks of a network -> how many matrices each
    of them stacks.

    Layers outside of blocks, which embed what comes in or make what goes out, are left out, and so are
    depthwise convolutions, biases, gains and tables.
    """
    blocks = [part for part in module.modules() if isinstance(part, Checkpointed)]
    matrices: dict[nn.Parameter, int] = {}
    for part in (inner for block in blocks for inner in block.modules()):
        stacked = getattr(part, STACKED, {})
        for name, layer in part.named_children():
            if _is_matrix(layer):
                matrices[layer._parameters["weight"]] = stacked.get(name, 1)  # type: ignore[index]
    return matrices


def _is_matrix(layer: nn.Module) -> bool:
    if not isinstance(layer, LAYERS) or getattr(layer, "groups", 1) > 1:
        return False
    weight = layer._parameters.get("weight")  # None where it is computed, as by weight norm
    return weight is not None and weight.requires_grad and min(weight.shape[:2]) > 1
