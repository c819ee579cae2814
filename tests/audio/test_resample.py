import pytest
import torch

from stable_audio.audio.resample import resample, resample_sinc, resampled_length
from tests.audio.sounds import sine

RATES = [(44100, 48000), (48000, 44100), (44100, 16000), (16000, 44100), (8000, 48000), (32000, 32000)]


@pytest.mark.parametrize("convert", [resample, resample_sinc])
@pytest.mark.parametrize(("source", "target"), RATES)
def test_a_sine_stays_the_same_sine(convert, source: int, target: int) -> None:
    out = convert(sine(1000.0, 0.5, source, 2).contiguous(), source, target)
    expected = sine(1000.0, 0.5, target, 2)
    assert out.shape == expected.shape
    middle = slice(target // 20, -target // 20)
    assert (out - expected)[:, middle].abs().max() < 1e-3


@pytest.mark.parametrize("convert", [resample, resample_sinc])
def test_nothing_folds_back(convert) -> None:
    """9 kHz does not exist at 16 kHz; whatever is left is aliasing."""
    out = convert(sine(9000.0, 1.0, 44100).contiguous(), 44100, 16000)
    assert 20 * torch.log10(out[:, 800:-800].square().mean().sqrt()) < -100


@pytest.mark.parametrize("length", [1, 7, 441, 1000])
def test_lengths(length: int) -> None:
    for source, target in RATES:
        expected = resampled_length(length, source, target)
        audio = torch.randn(2, length)
        assert resample(audio, source, target).shape == (2, expected)
        assert resample_sinc(audio[None], source, target).shape == (1, 2, expected)


def test_sinc_has_a_gradient() -> None:
    audio = torch.randn(1, 400, requires_grad=True)
    resample_sinc(audio, 16000, 8000).square().sum().backward()
    assert audio.grad is not None
    assert (audio.grad != 0).any()
