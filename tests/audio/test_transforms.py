import math
import pickle

import pytest
import torch

from stable_audio.audio.loudness import _high_pass, _shelf, integrated_loudness
from stable_audio.audio.padding import PaddingMask
from stable_audio.audio.spectrogram import decibels, hz_to_mel, mel_filterbank, mel_spectrogram, mel_to_hz
from stable_audio.audio.transforms import fit_length, peak_db, to_channels
from tests.audio.sounds import sine


def test_fit_length() -> None:
    audio = torch.arange(10.0).expand(2, 10)
    assert fit_length(audio, 4, offset=3)[0].tolist() == [3, 4, 5, 6]
    assert fit_length(audio, 4, offset=8)[0].tolist() == [8, 9, 0, 0]
    assert PaddingMask(2, 4).tolist() == [1, 1, 0, 0]


def test_to_channels() -> None:
    stereo = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert to_channels(stereo, 1).tolist() == [[0.5, 0.5]]
    assert to_channels(stereo[:1], 2).tolist() == [[1, 0], [1, 0]]
    assert torch.equal(to_channels(torch.arange(12.0).view(6, 2), 2), torch.arange(4.0).view(2, 2))
    with pytest.raises(ValueError, match="has 2 channels, the model needs 4"):
        to_channels(stereo, 4)


def test_peak() -> None:
    assert peak_db(torch.tensor([[0.1, -0.5]])) == pytest.approx(-6.02, abs=0.01)
    assert peak_db(torch.zeros(1, 4)) == -math.inf


def test_k_weighting_coefficients_at_48_khz() -> None:
    """The tables of ITU-R BS.1770-4."""
    b, a = _shelf(48000)
    assert [x / a[0] for x in b] == pytest.approx(
        [1.53512485958697, -2.69169618940638, 1.19839281085285], abs=1e-9
    )
    assert [x / a[0] for x in a[1:]] == pytest.approx([-1.69065929318241, 0.73248077421585], abs=1e-9)
    b, a = _high_pass(48000)
    assert [x / a[0] for x in b] == pytest.approx([1, -2, 1])
    assert [x / a[0] for x in a[1:]] == pytest.approx([-1.99004745483398, 0.99007225036621], abs=1e-9)


@pytest.mark.parametrize("rate", [44100, 48000])
def test_loudness_of_a_sine(rate: int) -> None:
    """A 997 Hz sine at full scale is -3.01 LUFS in one channel, 0 in two; the gate ignores silence."""
    tone = sine(997.0, 3.0, rate)
    assert integrated_loudness(tone, rate) == pytest.approx(-3.01, abs=0.03)
    assert integrated_loudness(tone.expand(2, -1), rate) == pytest.approx(0.0, abs=0.03)
    assert integrated_loudness(0.1 * tone, rate) == pytest.approx(-23.01, abs=0.03)
    with_pause = torch.cat([tone, torch.zeros(1, 5 * rate)], dim=1)
    assert integrated_loudness(with_pause, rate) == pytest.approx(-3.01, abs=0.4)
    assert integrated_loudness(torch.zeros(1, rate), rate) == -math.inf


def test_mel_scales() -> None:
    hz = torch.tensor([0.0, 200.0, 1000.0, 6400.0])
    assert hz_to_mel(torch.tensor([700.0])).item() == pytest.approx(2595 * math.log10(2), abs=1e-3)
    assert hz_to_mel(hz, "slaney").tolist() == pytest.approx([0.0, 3.0, 15.0, 42.0], abs=1e-4)
    for scale in ("htk", "slaney"):
        assert torch.allclose(mel_to_hz(hz_to_mel(hz, scale), scale), hz, atol=1e-2)


def test_mel_filters() -> None:
    filters = mel_filterbank(40, 2048, 16000)
    assert filters.shape == (40, 1025)
    assert filters.max() <= 1
    areas = mel_filterbank(20, 4096, 16000, scale="slaney", area_norm=True).sum(1) * 16000 / 4096
    assert torch.allclose(areas, torch.ones(20), atol=0.02)


def test_a_sine_lights_its_band() -> None:
    mel = mel_spectrogram(sine(1000.0, 1.0, 16000), 16000, n_fft=1024, hop_length=256, n_mels=64)
    assert mel.shape == (1, 64, 63)
    points = mel_to_hz(torch.linspace(0, float(hz_to_mel(torch.tensor(8000.0))), 66))
    band = int((points - 1000.0).abs().argmin()) - 1
    assert mel[0, :, 30].argmax() == band


def test_decibels_of_silence() -> None:
    assert decibels(torch.zeros(2, 2)).tolist() == [[-80, -80], [-80, -80]]


def test_a_padding_mask_is_two_numbers_that_stand_for_a_tensor() -> None:
    mask = PaddingMask(2, 4)
    dense = torch.tensor([1.0, 1, 0, 0])
    assert torch.equal(mask.tensor(), dense)
    assert (len(mask), mask.shape, mask.sum()) == (len(dense), dense.shape, int(dense.sum()))
    assert mask.lengthened(3) == PaddingMask(2, 7)
    at = torch.tensor([0, 1, 2, 3, 1])
    assert torch.equal(mask.at(at), dense[at].bool())
    assert len(pickle.dumps(PaddingMask(10**6, 2 * 10**6))) < 200
    with pytest.raises(ValueError, match="5 of 4 samples"):
        PaddingMask(5, 4)
