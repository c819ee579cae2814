"""What two sets of weights differ by, as an adapter: the first singular vectors of each difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from stable_audio.adapters.base import base_tensors
from stable_audio.adapters.errors import AdapterError
from stable_audio.adapters.files import Adapter
from stable_audio.adapters.layers import own_weight
from stable_audio.adapters.stack import BACKBONE, AdapterStack
from stable_audio.adapters.terms import LayerTerm, adapter_of, norm, relative
from stable_audio.wording import names


@dataclass(frozen=True)
class Extraction:
    """An adapter, and what it leaves out of a difference.

    Attributes:
        errors: layer -> norm of what is left out of its difference, relative to that difference.
        error: the same of all differences together, those of `others` included.
        others: weights that differ and that no adapter changes, such as biases and norms, or that were not
            selected -> norm of the difference.
    """

    adapter: Adapter
    errors: Mapping[str, float]
    error: float
    others: Mapping[str, float] = field(default_factory=dict)


def check_size(rank: int | None, energy: float | None) -> None:
    """Raise AdapterError unless one of both, as for `extracted`, says how large an adapter is to be."""
    if (rank is None) == (energy is None):
        raise AdapterError(
            "give either a rank or an energy, the share of the change that an adapter has (--rank, --energy)"
        )
    if rank is not None and rank < 1:
        raise AdapterError(f"--rank must be at least 1, found {rank}")
    if energy is not None and not 0 < energy <= 1:
        raise AdapterError(f"--energy must be above 0 and at most 1, found {energy:g}")


@torch.no_grad()
def extracted(
    base: nn.Module,
    tuned: nn.Module,
    *,
    rank: int | None = None,
    energy: float | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    source: str = "the difference",
) -> Extraction:
    """An adapter of type `lora` that makes `base` nearly `tuned`, by truncated SVD (Eckart & Young 1936).

    Args:
        base: a diffusion model.
        tuned: the same model with other weights.
        rank: of the adapter; at the most that of the smallest selected layer is exact for it.
        energy: in place of `rank`: the smallest rank with which the adapter has this share, of at most 1, of
            the sum of all squared differences of the selected layers.
        include: parts of the names of layers to look at; None: all.
        exclude: parts of the names of layers that are left out.

    Raises:
        AdapterError: models of other shapes, no difference, or neither or both of `rank` and `energy`.
    """
    check_size(rank, energy)
    differences, others = _differences(base, tuned, include, exclude)
    if not differences:
        listed = f"; what differs is {names(others, 4)}" if others else ""
        raise AdapterError(f"{source}: no layer that adapters change differs{listed}")
    factors = {name: torch.linalg.svd(d, full_matrices=False) for name, d in differences.items()}
    values = {name: s for name, (_, s, _) in factors.items()}
    number = rank or _rank_of_energy(values, energy or 1.0)
    terms = {
        name: LayerTerm(vh[:number].contiguous(), u[:, :number] * s[:number], {})
        for name, (u, s, vh) in factors.items()
    }
    left = {name: norm(differences[name] - t.up @ t.down) for name, t in terms.items()}
    squares = sum(norm(d) ** 2 for d in differences.values()) + sum(v**2 for v in others.values())
    rest = sum(v**2 for v in left.values()) + sum(v**2 for v in others.values())
    return Extraction(
        adapter_of(terms, "lora", source=source, include=include, exclude=exclude),
        {name: relative(value, norm(differences[name])) for name, value in left.items()},
        relative(rest**0.5, squares**0.5),
        others,
    )


def _differences(
    base: nn.Module, tuned: nn.Module, include: Sequence[str] | None, exclude: Sequence[str] | None
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Differences of weights as matrices by layer, and norms of all others by name."""
    before, after = base_tensors(base), base_tensors(tuned)
    shapes = {key: (_shape(before, key), _shape(after, key)) for key in before.keys() | after.keys()}
    if wrong := {key: pair for key, pair in sorted(shapes.items()) if pair[0] != pair[1]}:
        key, (first, second) = next(iter(wrong.items()))
        raise AdapterError(
            f"the models are different networks: {key} has the shapes {first} and {second} "
            f"({len(wrong)} weights differ in shape)"
        )
    stacks = [AdapterStack(m.backbone, m.conditioner) for m in (base, tuned)]  # type: ignore[arg-type]
    chosen = [name for name in stacks[0].selection(include, exclude) if name in stacks[1].layers]
    differences: dict[str, Tensor] = {}
    for name in chosen:
        old, new = (own_weight(stack.layers[name]).detach().float() for stack in stacks)
        if not torch.equal(old, new):
            differences[name] = new - old
    held = {_stored_name(name) for name in chosen}
    changed = {
        key: norm(after[key].float() - value.float())
        for key, value in before.items()
        if key not in held and not torch.equal(value, after[key])
    }
    return differences, changed


def _stored_name(layer: str) -> str:
    """The name of a layer's weight among those of the model."""
    if layer.startswith(BACKBONE):
        return f"backbone.{layer.removeprefix(BACKBONE)}.weight"
    return f"conditioner.{layer}.weight"


def _shape(tensors: Mapping[str, Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(tensors[key].shape) if key in tensors else None


def _rank_of_energy(values: Mapping[str, Tensor], energy: float) -> int:
    """The smallest rank with which all layers together have a share of their squares."""
    longest = max(len(s) for s in values.values())
    squares = torch.zeros(longest, dtype=torch.float64)
    for s in values.values():
        squares[: len(s)] += s.double() ** 2
    shares = squares.cumsum(0) / squares.sum()
    # A share of 1 is reached but for rounding.
    reached = shares >= energy * (1 - 1e-12)
    return int(reached.int().argmax()) + 1
