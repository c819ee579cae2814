"""Faster layers compute what the plain ones do, and leave no trace."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stable_audio.inference.generation.coding import decode_each, encode_each
from stable_audio.pretransforms import DECODERS, ENCODERS, Autoencoder, AutoencoderPretransform, fast
from stable_audio.pretransforms.fast import fast_inference

OOBLECK = {"channels": 4, "c_mults": [1, 2, 3], "strides": [2, 3, 4]}

CODERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "oobleck encoder": (
        lambda: ENCODERS["oobleck"](in_channels=2, latent_dim=6, use_snake=True, **OOBLECK),
        (2, 2, 24 * 40 + 7),
    ),
    "oobleck encoder, ELU": (
        lambda: ENCODERS["oobleck"](in_channels=1, latent_dim=6, **OOBLECK),
        (1, 1, 24 * 30),
    ),
    "oobleck decoder": (
        lambda: DECODERS["oobleck"](out_channels=2, latent_dim=6, use_snake=True, **OOBLECK),
        (2, 6, 30),
    ),
    "oobleck decoder, ELU": (
        lambda: DECODERS["oobleck"](out_channels=2, latent_dim=6, **OOBLECK),
        (1, 6, 1),
    ),
    "anti-aliased": (
        lambda: DECODERS["oobleck"](
            latent_dim=6, use_snake=True, antialias_activation=True, use_nearest_upsample=True, **OOBLECK
        ),
        (2, 6, 30),
    ),
    "dac encoder": (lambda: ENCODERS["dac"](latent_dim=6, d_model=4, strides=[2, 4]), (2, 1, 301)),
    "dac decoder": (lambda: DECODERS["dac"](latent_dim=6, channels=16, rates=[4, 2]), (2, 6, 41)),
}


def randomised(coder: nn.Module) -> nn.Module:
    """Parameters away from where initialisation puts them, in inference mode."""
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.mul_(1 + 0.2 * torch.rand_like(parameter)).add_(0.1 * torch.randn_like(parameter))
    return coder.eval()


def fast_layers(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if type(m).__module__ == fast.__name__]


@pytest.mark.parametrize("tile", [13, 40, 10**6])
@pytest.mark.parametrize("name", CODERS)
@torch.no_grad()
def test_same_numbers(name: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "_TILE_FRAMES", tile)
    monkeypatch.setattr(fast, "_TILE_VALUES", tile)
    build, shape = CODERS[name]
    coder, x = randomised(build()), torch.randn(shape)
    given, layers, keys = x.clone(), list(coder.modules()), list(coder.state_dict())
    expected = coder(x)
    with fast_inference(coder):
        assert fast_layers(coder)
        found = coder(x)
        again = coder(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.std().item())
    assert torch.equal(found, again)
    assert torch.equal(x, given)
    assert list(coder.modules()) == layers
    assert list(coder.state_dict()) == keys


@torch.no_grad()
def test_folded_weights_serve_as_well() -> None:
    build, shape = CODERS["oobleck decoder"]
    coder, x = randomised(build()), torch.randn(shape)
    expected = coder(x)
    for layer in coder.modules():
        if hasattr(layer, "fold"):
            layer.fold()
    with fast_inference(coder):
        torch.testing.assert_close(coder(x), expected, rtol=1e-5, atol=1e-5 * expected.std().item())


@torch.no_grad()
def test_new_weights_are_seen_and_errors_leave_nothing_behind() -> None:
    build, shape = CODERS["oobleck decoder"]
    coder, x = randomised(build()), torch.randn(shape)
    with fast_inference(coder):
        before = coder(x)
    randomised(coder)
    with fast_inference(coder), fast_inference(coder):
        assert not torch.allclose(coder(x), before)
        torch.testing.assert_close(coder(x), coder(x))
    with pytest.raises(RuntimeError), fast_inference(coder):
        coder(torch.randn(1, 5, 8))
    assert not fast_layers(coder)


def test_where_it_would_be_wrong_it_does_nothing() -> None:
    coder = CODERS["oobleck decoder"][0]()
    with fast_inference(coder):
        assert not fast_layers(coder)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), fast_inference(coder):
        assert not fast_layers(coder)
    for dtype in (torch.float64, torch.float16):
        with torch.no_grad(), fast_inference(coder.to(dtype)):
            assert not fast_layers(coder)


@torch.no_grad()
def test_bfloat16_is_near() -> None:
    build, shape = CODERS["oobleck decoder"]
    coder, x = randomised(build()), torch.randn(shape)
    expected = coder(x)
    with fast_inference(coder.bfloat16()):
        found = coder(x.bfloat16())
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() < 0.03 * expected.norm()


def pretransform() -> AutoencoderPretransform:
    shared = {"use_snake": True, **OOBLECK}
    return AutoencoderPretransform(
        model=Autoencoder(
            encoder=ENCODERS["oobleck"](in_channels=2, latent_dim=6, **shared),
            decoder=DECODERS["oobleck"](out_channels=2, latent_dim=6, **shared),
            latent_dim=6,
            downsampling_ratio=24,
            io_channels=2,
        )
    )


@torch.no_grad()
def test_a_pretransform_uses_it_and_gives_contiguous_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    made = pretransform()
    seen: list[int] = []
    for coder in (made.model.encoder, made.model.decoder):
        coder.register_forward_pre_hook(lambda module, _: seen.append(len(fast_layers(module))))
    audio = torch.randn(2, 2, 24 * 60)
    latents = made.encode_chunked(audio, chunk_size=20, overlap=8)
    decoded = made.decode_chunked(latents, chunk_size=20, overlap=8)
    assert all(seen)
    assert len(seen) > 4
    torch.testing.assert_close(latents, made.model.encode_chunked(audio, chunk_size=20, overlap=8))
    assert latents.is_contiguous()
    assert decoded.is_contiguous()
    assert made.decode(latents).is_contiguous()


@torch.no_grad()
def test_a_pretransform_may_be_bfloat16() -> None:
    made, latents = pretransform(), torch.randn(1, 6, 20)
    expected = made.decode(latents)
    found = made.to(torch.bfloat16).decode(latents.bfloat16())
    assert (found.float() - expected).norm() < 0.03 * expected.norm()


@torch.no_grad()
def test_saved_files_keep_their_layout(tmp_path: Path) -> None:
    made, target = pretransform(), tmp_path / "state.pt"
    before = {k: v.clone() for k, v in made.state_dict().items()}
    made.decode(torch.randn(1, 6, 20))
    torch.save(made.state_dict(), target)
    after: dict[str, Tensor] = torch.load(target, weights_only=True)
    assert list(after) == list(before)
    assert all(torch.equal(after[k], v) for k, v in before.items())


def test_gradients_flow_where_they_are_asked_for() -> None:
    made = pretransform()
    latents = torch.randn(1, 6, 20, requires_grad=True)
    made.decode(latents).square().sum().backward()
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["oobleck encoder", "oobleck decoder"])
@torch.no_grad()
def test_compiled_coders_compute_the_same(name: str) -> None:
    build, shape = CODERS[name]
    coder, x = randomised(build()), torch.randn(shape)
    compiled = torch.compile(coder, backend="aot_eager")
    torch.testing.assert_close(compiled(x), coder(x), rtol=1e-5, atol=1e-5)


def test_threads_do_not_find_half_exchanged_layers() -> None:
    model = pretransform()
    latents = [torch.randn(1, model.encoded_channels, 4) for _ in range(4)]
    with torch.no_grad():
        expected = [model.decode(z) for z in latents]

    def decode_often(index: int) -> list[Tensor]:
        with torch.no_grad():  # a setting of the thread
            return [model.decode(latents[index]) for _ in range(20)]

    with ThreadPoolExecutor(4) as threads:
        for index, found in enumerate(threads.map(decode_often, range(4))):
            assert all(torch.equal(audio, expected[index]) for audio in found)


@torch.no_grad()
def test_the_clips_of_a_generation_share_normalised_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    part, kernel_of, normalised = pretransform(), fast._kernel_of, []
    model: Any = SimpleNamespace(pretransform=part, device=torch.device("cpu"), computes_on=None)
    latents = torch.randn(3, part.encoded_channels, 4)
    monkeypatch.setattr(fast, "_kernel_of", lambda layer: normalised.append(layer) or kernel_of(layer))
    expected = torch.cat([part.decode(z) for z in latents.split(1)])
    assert len(normalised) == 3 * len(set(normalised))
    normalised.clear()
    assert torch.equal(decode_each(model, latents), expected)
    assert len(normalised) == len(set(normalised))
    normalised.clear()
    encode_each(model, expected, None)
    assert len(normalised) == len(set(normalised))
    assert not fast_layers(part.model)
