"""Loudness and true peak after ITU-R BS.1770-4: K-weighting, 400 ms blocks, absolute and relative gate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stable_audio.audio.resample import resample

_TRUE_PEAK_RATE = 192_000
_ABSOLUTE_GATE = -70.0
_RELATIVE_GATE = -10.0
_SURROUND_GAIN = 1.41
_DECAY_SECONDS = 0.5


def integrated_loudness(audio: Tensor, sample_rate: int) -> float:
    """Loudness of audio (c n) in LUFS; -inf when every block is below the absolute gate.

    Channels 4 and 5 of six count as surround, channel 3 (low-frequency effects) not at all.
    """
    power = _k_weighted(audio.double(), sample_rate).square()
    block = round(0.4 * sample_rate)
    if power.shape[-1] < block:
        power = torch.nn.functional.pad(power, (0, block - power.shape[-1]))
    means = power.unfold(-1, block, block // 4).mean(-1)
    per_block = (means * _channel_gains(audio.shape[-2])[:, None]).sum(0)
    loud = per_block[_lufs(per_block) > _ABSOLUTE_GATE]
    if loud.numel() == 0:
        return -math.inf
    gated = loud[_lufs(loud) > float(_lufs(loud.mean())) + _RELATIVE_GATE]
    return float(_lufs(gated.mean()))


def true_peak(audio: Tensor, sample_rate: int) -> float:
    """Largest level of audio (c n) between its samples, in dB relative to full scale; -inf for silence.

    As in annex 2: the maximum after oversampling to 192 kHz or more, which misses at most 0.7 dB at half the
    sample rate and 0.2 dB at a quarter; never below the largest sample.
    """
    peak = float(audio.abs().max()) if audio.numel() else 0.0
    times = math.ceil(_TRUE_PEAK_RATE / sample_rate)
    if peak > 0 and times > 1:
        between = resample(audio.detach().cpu().float(), sample_rate, times * sample_rate)
        peak = max(peak, float(between.abs().max()))
    return 20 * math.log10(peak) if peak > 0 else -math.inf


def _lufs(power: Tensor) -> Tensor:
    return -0.691 + 10 * torch.log10(power.clamp(min=1e-20))


def _channel_gains(channels: int) -> Tensor:
    gains = torch.ones(channels, dtype=torch.float64)
    if channels == 6:
        gains[3], gains[4:] = 0.0, _SURROUND_GAIN
    return gains


def _k_weighted(audio: Tensor, sample_rate: int) -> Tensor:
    """Both filters at once in the frequency domain; the padding outlasts their impulse responses."""
    size = audio.shape[-1] + round(_DECAY_SECONDS * sample_rate)
    omega = 2 * math.pi * torch.fft.rfftfreq(size, dtype=torch.float64)
    response = _response(_shelf(sample_rate), omega) * _response(_high_pass(sample_rate), omega)
    return torch.fft.irfft(torch.fft.rfft(audio, size) * response, size)[..., : audio.shape[-1]]


def _response(coefficients: tuple[list[float], list[float]], omega: Tensor) -> Tensor:
    powers = torch.exp(-1j * omega[None] * torch.arange(3, dtype=torch.float64)[:, None])
    b, a = (torch.tensor(c, dtype=torch.float64) for c in coefficients)
    return (b[:, None] * powers).sum(0) / (a[:, None] * powers).sum(0)


def _shelf(sample_rate: int) -> tuple[list[float], list[float]]:
    """High shelf: +4 dB above about 1.7 kHz (the head)."""
    gain, q, frequency = 3.999843853973347, 0.7071752369554196, 1681.974450955533
    k = math.tan(math.pi * frequency / sample_rate)
    high = 10 ** (gain / 20)
    band = high**0.4996667741545416
    norm = 1 + k / q + k * k
    b = [(high + band * k / q + k * k), 2 * (k * k - high), (high - band * k / q + k * k)]
    a = [norm, 2 * (k * k - 1), 1 - k / q + k * k]
    return b, a


def _high_pass(sample_rate: int) -> tuple[list[float], list[float]]:
    """High pass at 38 Hz."""
    q, frequency = 0.5003270373238773, 38.13547087602444
    k = math.tan(math.pi * frequency / sample_rate)
    norm = 1 + k / q + k * k
    return [norm, -2 * norm, norm], [norm, 2 * (k * k - 1), 1 - k / q + k * k]
