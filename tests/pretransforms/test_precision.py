"""Autocast to bfloat16 leaves the signal near the audio, and what bottlenecks compute, in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stable_audio.nn.checkpointing import set_gradient_checkpointing
from stable_audio.pretransforms import BOTTLENECKS, DECODERS
from stable_audio.pretransforms.bottlenecks.codebook import ResidualVQ, nearest
from stable_audio.pretransforms.bottlenecks.dac_rvq import FactorisedVQ
from tests import tiny

MIXED = {"device_type": "cpu", "dtype": torch.bfloat16}


def randomised(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def decoder_of(name: str, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    return randomised(DECODERS[name](**{**tiny.DECODERS[name], **changes}))


@pytest.mark.parametrize("name", sorted(tiny.DECODERS))
def test_the_audio_is_not_rounded(name: str) -> None:
    decoder = decoder_of(name)
    latents = torch.randn(2, 4, 2, 8) if name == "autoencoder_kl" else torch.randn(2, 4, 12)
    with torch.no_grad(), torch.autocast(**MIXED):
        audio = decoder(latents)
    assert audio.dtype == torch.float32
    assert (audio != audio.bfloat16()).float().mean() > 0.9


@pytest.mark.parametrize("name", ["oobleck", "dac", "seanet", "taae"])
def test_no_convolution_at_the_rate_of_the_audio_is_rounded(name: str) -> None:
    """From the last upsampling on, every convolution gets float32; those before it get bfloat16."""
    decoder, seen = decoder_of(name), []

    def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((output.shape[-1], output.dtype))

    for module in decoder.modules():
        if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
            module.register_forward_hook(note)
    with torch.no_grad(), torch.autocast(**MIXED):
        decoder(torch.randn(1, 4, 12))
    longest = [dtype for length, dtype in seen if length >= 96]
    assert longest
    assert set(longest) == {torch.float32}
    assert torch.bfloat16 in {dtype for length, dtype in seen if length < 48}


def test_half_precision_weights_stay_possible() -> None:
    """Without autocast every layer computes in the type of its weights."""
    for name in sorted(tiny.DECODERS):
        decoder = decoder_of(name).bfloat16()
        shape = (1, 4, 2, 8) if name == "autoencoder_kl" else (1, 4, 12)
        assert decoder(torch.randn(shape, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("name", sorted(tiny.DECODERS))
def test_checkpointing_computes_the_same_gradients_under_autocast(name: str) -> None:
    """What is computed again in the backward pass is what the forward pass computed, in the same types."""
    decoder = decoder_of(name).train()
    latents = torch.randn(2, 4, 2, 8) if name == "autoencoder_kl" else torch.randn(2, 4, 12)
    found = []
    for what in (False, True, "elementwise"):
        set_gradient_checkpointing(decoder, what)
        decoder.zero_grad(set_to_none=True)
        torch.manual_seed(1)
        with torch.autocast(**MIXED):
            audio = decoder(latents)
        audio.square().mean().backward()
        found.append({n: p.grad for n, p in decoder.named_parameters() if p.grad is not None})
    plain, *others = found
    assert plain
    for checkpointed in others:
        assert plain.keys() == checkpointed.keys()
        for key, value in plain.items():
            assert torch.equal(checkpointed[key], value), key


@pytest.mark.slow
def test_a_compiled_decoder_computes_the_same_under_autocast() -> None:
    """As one graph: switching autocast off for the last stage breaks none."""
    decoder = decoder_of("oobleck").train()
    latents, found = torch.randn(2, 4, 12), []
    for network in (decoder, torch.compile(decoder, backend="aot_eager", fullgraph=True)):
        decoder.zero_grad(set_to_none=True)
        with torch.autocast(**MIXED):
            audio = network(latents)
        audio.square().mean().backward()
        found.append([audio.detach(), *(p.grad for p in decoder.parameters() if p.grad is not None)])
    assert found[0][0].dtype == torch.float32
    for plain, compiled in zip(*found, strict=True):
        assert torch.equal(compiled, plain)


def far_from_zero(rows: int, dim: int) -> Tensor:
    return 3 + 0.3 * torch.randn(rows, dim, generator=torch.Generator().manual_seed(1))


def test_codes_are_the_nearest_under_autocast() -> None:
    rows, codes = far_from_zero(500, 16), far_from_zero(64, 16)[torch.randperm(64)]
    exact = torch.cdist(rows.double(), codes.double()).argmin(1)
    with torch.autocast(**MIXED):
        assert torch.equal(nearest(rows, codes), exact)


@pytest.mark.parametrize("name", ["rvq", "rvq_vae", "dac_rvq", "dac_rvq_vae", "fsq", "dithered_fsq"])
def test_tokens_are_those_of_float32_under_autocast(name: str) -> None:
    torch.manual_seed(0)
    bottleneck = BOTTLENECKS[name](**tiny.BOTTLENECKS[name])
    x = far_from_zero(8 * 60, 4 * bottleneck.input_multiple).view(8, 60, -1).mT - (0 if "rvq" in name else 3)
    if name.startswith("rvq"):  # the codebooks start from the rows
        bottleneck.train().encode(x, noise=torch.zeros_like)
    bottleneck.eval()
    latents, info = bottleneck.encode(x, noise=torch.zeros_like)
    with torch.no_grad(), torch.autocast(**MIXED):
        mixed, found = bottleneck.encode(x, noise=torch.zeros_like)
    assert torch.equal(found["tokens"], info["tokens"])
    torch.testing.assert_close(mixed, latents.detach())


def test_cosine_similarity_of_dac_codes_is_float32_under_autocast() -> None:
    torch.manual_seed(0)
    layer = FactorisedVQ(input_dim=8, codebook_size=256, codebook_dim=8)
    projected = far_from_zero(300, 8).T[None]
    expected = layer.nearest(projected)
    with torch.autocast(**MIXED):
        assert torch.equal(layer.nearest(projected), expected)


@pytest.mark.parametrize("name", sorted(tiny.BOTTLENECKS))
def test_loss_terms_are_those_of_float32_under_autocast(name: str) -> None:
    """KL, discrepancies and commitment are small differences of large numbers."""
    found = []
    for mixed in (False, True):
        torch.manual_seed(0)
        bottleneck = BOTTLENECKS[name](**tiny.BOTTLENECKS[name]).train()
        x = torch.randn(3, 4 * bottleneck.input_multiple, 20)
        with torch.autocast(**MIXED, enabled=mixed):
            _, info = bottleneck.encode(x)
        found.append({k: info[k] for k in bottleneck.loss_weights})
    full, mixed_terms = found
    for key, value in full.items():
        assert torch.equal(mixed_terms[key], value), key


def test_half_precision_codebooks_still_find_their_tokens() -> None:
    layer = ResidualVQ(dim=4, codebook_size=8, num_quantizers=2, kmeans_init=False).eval().half()
    assert layer(torch.randn(1, 4, 9).half())[1].shape == (1, 2, 9)
