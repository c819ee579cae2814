"""The autoencoder as a whole, and as a pretransform."""

from __future__ import annotations

import copy
import resource
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.pretransforms import Autoencoder, AutoencoderPretransform, fold_weight_norm
from tests import tiny
from tests.pretransforms.building import build_autoencoder, build_pretransform

SPEC = tiny.PRETRANSFORMS["autoencoder"]


def build(**changes: Any) -> Autoencoder:
    torch.manual_seed(0)
    return build_autoencoder({**copy.deepcopy(SPEC), **changes}).eval()


def snr(found: Tensor, wanted: Tensor) -> float:
    return (10 * (wanted.square().sum() / (found - wanted).square().sum()).log10()).item()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"downsampling_ratio": 16},
            "encoder downsampling 8, expected 16; decoder upsampling 8, expected 16",
        ),
        ({"latent_dim": 6}, "encoder output channels 8, expected 12; decoder input channels 4, expected 6"),
        ({"io_channels": 1}, "encoder input channels 2, expected 1"),
        ({"bottleneck": {"type": "tanh"}}, "encoder output channels 8, expected 4"),
        (
            {"bottleneck": {"type": "wasserstein", "config": {"noise_augment_dim": 2}}},
            "decoder input channels 4, expected 6",
        ),
        ({"bottleneck": {"type": "softnorm", "config": {"dim": 6}}}, "bottleneck channels 6, expected 4"),
        ({"bottleneck": {"type": "rvq", "config": {"dim": 8}}}, "bottleneck channels 8, expected 4"),
        (
            {"bottleneck": {"type": "dithered_fsq", "config": {"dim": 4, "levels": 3, "num_codebooks": 2}}},
            "bottleneck channels 8, expected 4",
        ),
    ],
)
def test_parts_that_disagree_are_refused_with_the_numbers(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(**change)


def test_encode_is_the_parts_in_order() -> None:
    model, audio = build(), torch.randn(2, 2, 80)
    noise = torch.randn(2, 4, 10)
    with torch.no_grad():
        latents, info = model.encode_with_info(audio, noise=lambda like: noise)
        mean, scale = model.encoder(audio).chunk(2, 1)
        torch.testing.assert_close(latents, mean + noise * (torch.nn.functional.softplus(scale) + 1e-4))
        assert torch.equal(model.encode(audio, noise=lambda like: noise), latents)
        assert info["kl"] > 0
        assert torch.equal(model.decode(latents), model.decoder(latents))


def test_soft_clip_bounds_the_output() -> None:
    spec = copy.deepcopy(SPEC)
    spec["decoder"]["soft_clip"] = True
    spec["decoder"]["config"]["final_tanh"] = False
    model = build_autoencoder(spec)
    z = torch.randn(1, 4, 9)
    torch.testing.assert_close(model.decode(z), model.decoder(z).tanh())


@pytest.mark.parametrize("length", [8, 200, 1000, 1003, 8 * 128 + 5, 4096])
def test_chunks_give_what_one_pass_gives(length: int) -> None:
    model, audio = build(), torch.randn(2, 2, length)
    options = {"chunk_size": 80, "overlap": 48}
    noise = torch.randn(2, 4, length // 8)
    with torch.no_grad():
        whole = model.encode(audio, noise=lambda like: noise)
        pieces = model.encode_chunked(audio, noise=lambda like: noise, **options)
        torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            model.decode_chunked(whole, **options), model.decode(whole), atol=1e-5, rtol=1e-4
        )


def test_cross_fading_softens_seams_that_cut_into_the_receptive_field() -> None:
    model, z = build(), torch.randn(1, 4, 400)
    with torch.no_grad():
        whole = model.decode(z)
        hard = model.decode_chunked(z, chunk_size=40, overlap=4, crossfade=0)
        soft = model.decode_chunked(z, chunk_size=40, overlap=4, crossfade=4)

    def jump(y: Tensor) -> float:
        return (y - whole).diff(dim=-1).abs().max().item()

    assert jump(soft) < jump(hard)


def test_odd_strides_in_chunks() -> None:
    spec = copy.deepcopy(SPEC)
    for part in ("encoder", "decoder"):
        spec[part]["config"].update(strides=[3, 2])
    model = build_autoencoder({**spec, "downsampling_ratio": 6}).eval()
    z = torch.randn(1, 4, 150)
    with torch.no_grad():
        whole = model.decode(z)
        assert whole.shape[-1] == 150 * 6 - 1
        found = model.decode_chunked(z, chunk_size=100, overlap=72)
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-4)


def test_memory_of_chunked_decoding_does_not_grow_with_the_length() -> None:
    spec = copy.deepcopy(SPEC)
    for part in ("encoder", "decoder"):
        spec[part]["config"].update(channels=64)
    model = build_autoencoder(spec).eval()

    def peak(frames: int) -> int:
        with torch.no_grad():
            model.decode_chunked(torch.randn(1, 4, frames), chunk_size=256, overlap=32)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    short = peak(1000)
    # One pass over 16 times the length would hold at least 64 channels x 128,000 samples twice.
    assert peak(16_000) - short < 20_000


def test_folded_weights_give_the_same_audio() -> None:
    model, audio = build(), torch.randn(1, 2, 80)
    with torch.no_grad():
        features = model.encode_features(audio)
        decoded = model.decode(features[:, :4])
        fold_weight_norm(model)
        assert torch.equal(model.encode_features(audio), features)
        assert torch.equal(model.decode(features[:, :4]), decoded)
    assert not any("weight_g" in k for k in model.state_dict())


def test_tokens_there_and_back() -> None:
    spec = copy.deepcopy(SPEC)
    spec["encoder"]["config"]["latent_dim"] = 4
    spec["bottleneck"] = {"type": "fsq", "config": {"levels": [8, 5, 5], "dim": 4}}
    model, audio = build_autoencoder(spec).eval(), torch.randn(2, 2, 80)
    with torch.no_grad():
        tokens = model.encode_tokens(audio)
        assert tokens.shape == (2, 1, 10)
        torch.testing.assert_close(model.decode_tokens(tokens), model.decode(model.encode(audio)))
    assert model.is_discrete
    with pytest.raises(TypeError, match="VAEBottleneck"):
        build().encode_tokens(audio)


@pytest.mark.parametrize("half", [False, True])
def test_tokens_in_chunks_are_those_of_one_pass(half: bool) -> None:
    """Chunks that overlap by more than the receptive field; the pretransform's tokens are integers."""
    spec = copy.deepcopy(SPEC)
    spec["encoder"]["config"]["latent_dim"] = 4
    spec["bottleneck"] = {"type": "fsq", "config": {"levels": [8, 5, 5], "num_codebooks": 2, "dim": 4}}
    model = AutoencoderPretransform(model=build_autoencoder(spec).eval(), model_half=half)
    audio = torch.randn(1, 2, 8 * 200)
    with torch.no_grad():
        tokens = model.tokenize(audio)
        again = model.tokenize(audio, chunked=True, chunk_size=96, overlap=64)
        assert tokens.dtype == torch.int64
        assert tokens.shape == (1, 2, 200)
        # Rounding in half precision may cross the border between two levels.
        assert (tokens == again).float().mean() > (0.95 if half else 0.999)
        sound = model.decode_tokens(tokens)
        in_chunks = model.decode_tokens(tokens, chunked=True, chunk_size=96, overlap=64)
    assert sound.dtype == torch.float32
    torch.testing.assert_close(
        in_chunks, sound, atol=(1e-2 if half else 1e-5) * sound.std().item(), rtol=1e-3
    )


def wrapped(**options: Any) -> AutoencoderPretransform:
    torch.manual_seed(0)
    spec = copy.deepcopy(SPEC)
    spec["bottleneck"] = {"type": "vae", "config": {"sample": False}}
    pretransform = build_pretransform({"type": "autoencoder", "config": spec, **options})
    assert isinstance(pretransform, AutoencoderPretransform)
    return pretransform


def test_pretransform_options() -> None:
    audio = torch.randn(3, 2, 1600)
    plain = wrapped()
    latents = plain.encode(audio)
    torch.testing.assert_close(wrapped(scale=4.0).encode(audio), latents / 4)
    torch.testing.assert_close(wrapped(scale=4.0).decode(latents / 4), plain.decode(latents))
    torch.testing.assert_close(wrapped(iterate_batch=True).encode(audio), latents, atol=1e-6, rtol=1e-4)
    chunked = wrapped(chunked=True)
    # This tiny model sees 18 frames to each side, a little more than the fixed overlap covers.
    assert snr(chunked.encode(audio), latents) > 50
    assert snr(chunked.decode(latents), plain.decode(latents)) > 50


def test_half_precision_stays_inside() -> None:
    audio, pretransform = torch.randn(1, 2, 160), wrapped(model_half=True)
    latents = pretransform.encode(audio)
    assert latents.dtype == torch.float32
    assert next(pretransform.parameters()).dtype == torch.float16
    assert snr(latents, wrapped().encode(audio)) > 40
    assert snr(pretransform.decode(latents), wrapped().decode(latents)) > 40


def test_frozen_unless_trained() -> None:
    frozen, trained = wrapped(), wrapped(enable_grad=True)
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not frozen.train().model.training
    assert all(p.requires_grad for p in trained.parameters())
    x = torch.randn(1, 2, 80, requires_grad=True)
    frozen.encode(x).sum().backward()
    assert x.grad is not None


def test_facts_for_the_model() -> None:
    pretransform = wrapped()
    assert (pretransform.io_channels, pretransform.encoded_channels) == (2, 4)
    assert pretransform.downsampling_ratio == 8
    assert pretransform.needs_weights
    assert {k.split(".")[0] for k in pretransform.state_dict()} == {"model"}


def test_spectrogram_autoencoder() -> None:
    spec = {
        "encoder": {"type": "autoencoder_kl", "config": {**tiny.ENCODERS["autoencoder_kl"], "latent_dim": 8}},
        "decoder": {"type": "autoencoder_kl", "config": tiny.DECODERS["autoencoder_kl"]},
        "bottleneck": {"type": "gaussian"},
        "pretransform": {
            "type": "spectrogram",
            "config": {"channels": 1, "n_fft": 126, "hop_length": 32, "layout": "2d"},
        },
        "latent_dim": 4,
        "downsampling_ratio": 32 * 8,
        "io_channels": 1,
    }
    pretransform = build_pretransform({"type": "autoencoder", "scale": 1 / 0.18215, "config": spec})
    latents = pretransform.encode(torch.randn(1, 1, 1024))
    assert pretransform.latent_height == 8
    assert latents.shape == (1, 4, 8, 4)
    assert pretransform.decode(latents).shape == (1, 1, 1024)
