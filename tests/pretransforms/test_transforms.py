"""Transforms without learned weights: shapes, inverses, and what they are made of."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from stable_audio.pretransforms import PRETRANSFORMS, Pretransform
from stable_audio.pretransforms import pqmf as pqmf_module
from stable_audio.pretransforms.mel_spectrogram import MelSpectrogramPretransform, mel_filters
from stable_audio.pretransforms.wavelet import filter_bank
from tests import tiny
from tests.pretransforms.building import build_pretransform

FIXED = sorted(set(tiny.PRETRANSFORMS) - {"autoencoder"})
WAVELETS = ("bior2.2", "bior2.4", "bior2.6", "bior2.8", "bior4.4", "bior6.8")


def build(name: str) -> Pretransform:
    return build_pretransform({"type": name, "config": copy.deepcopy(tiny.PRETRANSFORMS[name])})


def snr(found: Tensor, wanted: Tensor) -> float:
    return (10 * (wanted.square().sum() / (found - wanted).square().sum()).log10()).item()


def test_tiny_configs_cover_the_registry() -> None:
    assert set(PRETRANSFORMS) - set(tiny.PRETRANSFORMS) == {"dac_pretrained"}


@pytest.mark.parametrize("name", sorted(tiny.PRETRANSFORMS))
def test_shapes_are_the_declared_ones(name: str) -> None:
    pretransform = build(name)
    audio = torch.randn(3, pretransform.io_channels, 40 * pretransform.downsampling_ratio)
    with torch.no_grad():
        latents = pretransform.encode(audio)
        assert latents.shape == (3, pretransform.encoded_channels, 40)
        assert pretransform.decode(latents).shape == audio.shape
        chunked = pretransform.encode_chunked(audio, chunk_size=16, overlap=8)
        assert chunked.shape == latents.shape
        assert pretransform.decode_chunked(latents, chunk_size=16, overlap=8).shape == audio.shape


@pytest.mark.parametrize("name", ["patched", "wavelet", "spectrogram"])
def test_exact_inverse(name: str) -> None:
    pretransform = build(name).double()
    audio = torch.randn(2, pretransform.io_channels, 40 * pretransform.downsampling_ratio).double()
    # Wavelet filters and windows are stored in float32.
    torch.testing.assert_close(pretransform.decode(pretransform.encode(audio)), audio, atol=1e-5, rtol=0)


def test_patches_are_samples_in_order_and_short_clips_are_padded() -> None:
    audio = torch.arange(14.0).view(1, 2, 7)
    latents = PRETRANSFORMS["patched"](channels=2, patch_size=4).encode(audio)
    assert latents[0, :, 0].tolist() == [0, 1, 2, 3, 7, 8, 9, 10]
    assert latents[0, :, 1].tolist() == [4, 5, 6, 0, 11, 12, 13, 0]
    assert PRETRANSFORMS["patched"](channels=2, patch_size=16).encode(audio[..., :1]).shape == (1, 32, 1)


def test_oversampled_patches() -> None:
    pretransform = PRETRANSFORMS["patched"](channels=1, patch_size=4, oversampling=2)
    assert (pretransform.encoded_channels, pretransform.downsampling_ratio) == (8, 4)
    tone = torch.sin(2 * torch.pi * 0.1 * torch.arange(400))[None, None]
    assert snr(pretransform.decode(pretransform.encode(tone))[..., 40:-40], tone[..., 40:-40]) > 60
    assert set(pretransform.state_dict()) == {"input_upsampler.kernel", "output_downsampler.kernel"}


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_wavelet_filters_and_reconstruction(wavelet: str) -> None:
    pywt = pytest.importorskip("pywt")
    bank = np.array(pywt.Wavelet(wavelet).filter_bank)[:, 1:]
    analysis, synthesis = filter_bank(wavelet)
    np.testing.assert_allclose(analysis.numpy(), bank[:2, ::-1], atol=1e-12)
    np.testing.assert_allclose(synthesis.numpy(), bank[2:], atol=1e-12)
    pretransform = PRETRANSFORMS["wavelet"](channels=3, levels=3, wavelet=wavelet)
    audio = torch.randn(2, 3, 512)
    torch.testing.assert_close(pretransform.decode(pretransform.encode(audio)), audio, atol=1e-4, rtol=0)


@pytest.mark.parametrize("wavelet", ["bior2.2", "bior4.4", "bior6.8"])
@pytest.mark.parametrize("frames", [1, 2, 3])
def test_wavelet_of_clips_shorter_than_its_filters(wavelet: str, frames: int) -> None:
    pretransform = PRETRANSFORMS["wavelet"](channels=2, levels=4, wavelet=wavelet)
    audio = torch.randn(1, 2, 16 * frames)
    torch.testing.assert_close(pretransform.decode(pretransform.encode(audio)), audio, atol=1e-5, rtol=0)


def test_wavelet_says_what_it_takes() -> None:
    with pytest.raises(ValueError, match=r"bior2\.2.*'haar'"):
        PRETRANSFORMS["wavelet"](channels=1, levels=1, wavelet="haar")
    with pytest.raises(ValueError, match="multiple of 4 samples, found 42"):
        build("wavelet").encode(torch.zeros(1, 2, 42))


@pytest.mark.parametrize("bands", [2, 4, 16])
def test_pqmf_is_nearly_perfect_and_separates_bands(bands: int) -> None:
    pretransform = PRETRANSFORMS["pqmf"](channels=1, num_bands=bands)
    audio = torch.randn(1, 1, 4096)
    restored = pretransform.decode(pretransform.encode(audio))
    assert snr(restored[..., 512:-512], audio[..., 512:-512]) > 55
    for band in range(bands):
        tone = torch.cos(torch.pi * (band + 0.5) / bands * torch.arange(4096))[None, None]
        energy = pretransform.encode(tone).square().mean((0, 2))
        assert energy.argmax() == band
        assert energy[band] > 0.999 * energy.sum()


def test_pqmf_prototype_is_that_of_the_classic_search() -> None:
    signal, optimize = pytest.importorskip("scipy.signal"), pytest.importorskip("scipy.optimize")

    def taps(cutoff: float) -> np.ndarray:
        count, beta = signal.kaiserord(80, cutoff / np.pi)
        return signal.firwin(2 * (count // 2) + 1, cutoff, window=("kaiser", beta), scale=False, fs=2 * np.pi)

    def error(cutoff: np.ndarray) -> float:
        h = taps(float(cutoff[0]))
        g = np.convolve(h, h[::-1])
        return np.abs(g[g.shape[0] // 2 :: 16][1:]).max()

    found = pqmf_module.minimise(lambda w: pqmf_module.reconstruction_error(w, 80, 8), 1 / 8)
    assert found == pytest.approx(optimize.fmin(error, 1 / 8, disp=0)[0], abs=1e-12)
    np.testing.assert_allclose(pqmf_module.kaiser_lowpass(found, 80), taps(found), atol=1e-12)


@pytest.mark.parametrize(("n_fft", "hop"), [(510, 128), (64, 32), (30, 8)])
@pytest.mark.parametrize("layout", ["1d", "2d"])
@pytest.mark.parametrize("power", [0.3, 1.0])
def test_spectrogram_is_exactly_invertible(n_fft: int, hop: int, layout: str, power: float) -> None:
    pretransform = PRETRANSFORMS["spectrogram"](
        channels=2, n_fft=n_fft, hop_length=hop, layout=layout, power=power, scale=3.0
    )
    audio = torch.randn(2, 2, 20 * hop)
    latents = pretransform.encode(audio)
    rows = n_fft // 2 + 1
    assert latents.shape == ((2, 4, rows, 20) if layout == "2d" else (2, 4 * rows, 20))
    assert pretransform.latent_height == (rows if layout == "2d" else None)
    assert snr(pretransform.decode(latents), audio) > 90
    odd = torch.randn(1, 2, 20 * hop - 3)
    assert snr(pretransform.decode(pretransform.encode(odd))[..., : odd.shape[-1]], odd) > 90


def test_spectrogram_levels_and_compression() -> None:
    noise = torch.randn(1, 1, 60_000)
    plain = PRETRANSFORMS["spectrogram"](channels=1, power=1.0)
    assert plain.stft(noise).abs().square().mean().item() == pytest.approx(1.0, abs=0.05)
    squeezed = PRETRANSFORMS["spectrogram"](channels=1, power=0.5)
    expected = plain.encode(noise).unflatten(1, (2, -1)).square().sum(1).sqrt().sqrt()
    found = squeezed.encode(noise).unflatten(1, (2, -1)).square().sum(1).sqrt()
    torch.testing.assert_close(found, expected)
    silence = torch.zeros(1, 1, 1280, requires_grad=True)
    squeezed.decode(squeezed.encode(silence)).sum().backward()
    assert silence.grad is not None
    assert silence.grad.isfinite().all()


@pytest.mark.parametrize("power", [None, 0.3])
@pytest.mark.parametrize("level", [-1e3, 1e3])
def test_wild_latents_of_an_untrained_network_decode_to_numbers(level: float, power: float | None) -> None:
    pretransform = PRETRANSFORMS["mel_spectrogram"](sample_rate=16_000, iterations=2, power=power)
    audio = pretransform.decode(torch.full((1, 80, 8), level))
    assert audio.isfinite().all()
    assert audio.abs().max() < 1e9


def test_mel_decoding_gives_the_mels_back_and_is_repeatable() -> None:
    t = torch.arange(16_384) / 16_000
    tones = sum(a * torch.sin(2 * torch.pi * f * t) for a, f in ((0.3, 440.0), (0.1, 1320.0), (0.05, 3000.0)))
    pretransform = PRETRANSFORMS["mel_spectrogram"](sample_rate=16_000)
    assert isinstance(pretransform, MelSpectrogramPretransform)
    latents = pretransform.encode(tones[None, None])  # type: ignore[union-attr]
    audio = pretransform.decode(latents)
    assert torch.equal(audio, pretransform.decode(latents))
    again = pretransform.encode(audio)
    loud = latents > 0
    assert loud.any()
    assert (again - latents)[loud].abs().mean() < 0.05  # 2.5 dB
    few = PRETRANSFORMS["mel_spectrogram"](sample_rate=16_000, iterations=0)
    rough = few.encode(few.decode(latents))
    assert (again - latents).abs().mean() < (rough - latents).abs().mean()


def test_mel_filters_cover_the_band() -> None:
    filters = mel_filters(20, 512, 16_000, 100.0, 8000.0)
    assert filters.shape == (20, 257)
    assert (filters.sum(1) > 0).all()
    assert filters[:, :3].abs().sum() == 0
    peaks = filters.argmax(1) * 16_000 / 512
    assert (peaks.diff() > 0).all()


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("patched", {"channels": 2, "patch_size": 0}, "positive"),
        ("pqmf", {"num_bands": 6}, "power of two, found 6"),
        ("spectrogram", {"n_fft": 511}, "n_fft=511"),
        ("spectrogram", {"n_fft": 64, "hop_length": 48}, "at least twice"),
        ("spectrogram", {"layout": "3d"}, "'3d'"),
        ("mel_spectrogram", {"sample_rate": 8000, "f_max": 5000.0}, "5000.0"),
        ("dac_pretrained", {"model_bitrate": "16kbps"}, "16kbps"),
    ],
)
def test_wrong_settings_are_refused(name: str, config: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PRETRANSFORMS[name](**config)


def test_dac_pretrained_from_a_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.DacConfig(
        encoder_hidden_size=4,
        downsampling_ratios=[2, 5],
        decoder_hidden_size=16,
        n_codebooks=2,
        codebook_size=16,
        codebook_dim=4,
        sampling_rate=16_000,
    )
    transformers.DacModel(config).save_pretrained(tmp_path)
    numbers, codes = (
        PRETRANSFORMS["dac_pretrained"](model_path=str(tmp_path), quantize_on_decode=q, scale=2.0)
        for q in (True, False)
    )
    audio = torch.randn(2, 1, 2003)
    assert (numbers.downsampling_ratio, numbers.encoded_channels, numbers.sample_rate) == (10, 16, 16_000)
    with torch.no_grad():
        latents = numbers.encode(audio)
        assert latents.shape == (2, 16, 201)
        decoded = numbers.decode(latents)
        assert decoded.shape == (2, 1, 2010)
        torch.testing.assert_close(codes.decode(codes.encode(audio)), decoded, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(
            numbers.decode_tokens(numbers.tokenize(audio)), decoded, atol=1e-4, rtol=1e-3
        )
    with pytest.raises(ValueError, match="mono"):
        numbers.encode(torch.zeros(1, 2, 100))
    with pytest.raises(OSError, match="neither a folder nor"):
        PRETRANSFORMS["dac_pretrained"](model_path=str(tmp_path / "nowhere"))
