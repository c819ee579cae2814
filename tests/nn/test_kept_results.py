"""Selective checkpointing: which results are kept, and that the repetition computes the others alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy

from stable_audio.nn.checkpointing import Checkpointed, in_words, set_gradient_checkpointing
from stable_audio.nn.kept_results import LEAST_TERMS, keeps

aten = torch.ops.aten
WIDE, NARROW = LEAST_TERMS, LEAST_TERMS - 1


def _kept(operation: Any, *args: Any, **kwargs: Any) -> bool:
    return keeps(None, operation, *args, **kwargs) == CheckpointPolicy.MUST_SAVE


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


@pytest.mark.parametrize(("terms", "kept"), [(WIDE, True), (NARROW, False)])
def test_products_are_kept_where_a_number_is_a_sum_of_many_terms(terms: int, kept: bool) -> None:
    a, b = _empty(3, terms), _empty(terms, 5)
    assert _kept(aten.mm.default, a, b) is kept
    assert _kept(aten.addmm.default, _empty(5), a, b) is kept
    assert _kept(aten.bmm.default, a[None], b[None]) is kept
    rest = (None, [1], [0], [1])
    assert (
        _kept(aten.convolution.default, _empty(1, terms, 9), _empty(4, terms, 1), *rest, False, [0], 1)
        is kept
    )
    transposed = (_empty(1, terms, 9), _empty(terms, 2, 1), *rest, True, [0])
    assert _kept(aten.convolution.default, *transposed, 1) is kept
    # Each of the outputs of two groups sums half of the inputs.
    assert not _kept(aten.convolution.default, *transposed, 2)


def test_depthwise_convolutions_and_elementwise_results_are_not_kept() -> None:
    x = _empty(1, 1024, 9)
    depthwise = (x, _empty(1024, 1, 17), None, [1], [8], [1], False, [0], 1024)
    assert not _kept(aten.convolution.default, *depthwise)
    for operation in (
        aten.silu.default,
        aten.mul.Tensor,
        aten.native_layer_norm.default,
        aten._softmax.default,
    ):
        assert not _kept(operation, x)


def test_attention_is_kept_where_it_drops_nothing_out() -> None:
    q = _empty(1, 2, 8, 64)
    for operation in (
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
    ):
        assert _kept(operation, q, q, q)
        assert _kept(operation, q, q, q, 0.0)
        assert not _kept(operation, q, q, q, 0.1)
        assert not _kept(operation, q, q, q, dropout_p=0.1)


class _Block(Checkpointed):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.into, self.out = nn.LayerNorm(WIDE), nn.Linear(WIDE, WIDE), nn.Linear(WIDE, WIDE)

    def compute(self, x: Tensor) -> Tensor:
        q = self.norm(x).unflatten(-1, (4, -1)).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, q, q, dropout_p=0.5).transpose(1, 2).flatten(2)
        y = F.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2) + y
        return x + self.out(F.dropout(F.silu(self.into(y)), 0.3))


class _Names(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def test_dropout_draws_the_same_numbers_where_results_between_are_kept() -> None:
    block, x, found = _Block(), torch.randn(2, 6, WIDE), []
    for what in (False, True, "elementwise"):
        set_gradient_checkpointing(block, what)
        block.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        loss = block(x).square().sum()
        torch.randn(3)  # the state of the generator moves on before the backward pass
        with _Names() as during:
            loss.backward()
        found.append([p.grad for p in block.parameters()])
    for gradients in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(gradients, found[0], strict=True))
    assert "aten::native_layer_norm" in during.names
    assert "aten::silu" in during.names
    assert "aten::addmm" not in during.names
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" not in during.names


def test_a_kept_result_that_is_changed_later_is_an_error() -> None:
    class Changing(Checkpointed):
        def compute(self, x: Tensor) -> Tensor:
            return (x @ x).mul_(2).sin()

    block = Changing()
    set_gradient_checkpointing(block, "elementwise")
    loss = block(torch.randn(WIDE, WIDE, requires_grad=True)).sum()
    with pytest.raises(RuntimeError, match="has been mutated"):
        loss.backward()


def test_compiled_blocks_keep_the_same_results() -> None:
    block, x = _Block().eval(), torch.randn(2, 6, WIDE)
    block.compute = lambda x: x + block.out(F.silu(block.into(block.norm(x))))  # type: ignore[method-assign]
    set_gradient_checkpointing(block, "elementwise")
    found = []
    for network in (block, torch.compile(block, backend="aot_eager_decomp_partition", fullgraph=True)):
        block.zero_grad(set_to_none=True)
        loss = network(x).square().sum()
        with _Names() as during:
            loss.backward()
        found.append([p.grad for p in block.parameters()])
        # Four products of the backward pass but for that with x: none is repeated.
        assert sum(name in ("aten::mm", "aten::addmm") for name in during.names) == 4
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain)


def test_what_is_recomputed_in_words() -> None:
    assert [in_words(what) for what in (False, True, 3, "elementwise")] == [
        "",
        "gradient checkpointing",
        "gradient checkpointing in the first of every 3 blocks",
        "gradient checkpointing of elementwise results",
    ]
