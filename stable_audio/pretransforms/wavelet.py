"""Biorthogonal wavelets (Cohen, Daubechies, Feauveau 1992): invertible, sub-bands folded into channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.pretransforms.base import Pretransform

# Low-pass filters from the centre outwards (both are symmetric): analysis, synthesis.
_FILTERS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "bior2.2": (
        (
            1.0606601717798212,
            0.3535533905932738,
            -0.1767766952966369,
        ),
        (
            0.7071067811865476,
            0.3535533905932738,
        ),
    ),
    "bior2.4": (
        (
            0.9943689110435825,
            0.4198446513295126,
            -0.1767766952966369,
            -0.06629126073623882,
            0.03314563036811941,
        ),
        (
            0.7071067811865476,
            0.3535533905932738,
        ),
    ),
    "bior2.6": (
        (
            0.966747552403483,
            0.4474660099696121,
            -0.16987135563661201,
            -0.1077232986963881,
            0.04695630968816917,
            0.013810679320049757,
            -0.006905339660024878,
        ),
        (
            0.7071067811865476,
            0.3535533905932738,
        ),
    ),
    "bior2.8": (
        (
            0.9516421218971786,
            0.46257144047591653,
            -0.16382918343409023,
            -0.13491307360773605,
            0.05299848189069094,
            0.02891610982635418,
            -0.012947511862546647,
            -0.0030210861012608843,
            0.0015105430506304422,
        ),
        (
            0.7071067811865476,
            0.3535533905932738,
        ),
    ),
    "bior4.4": (
        (
            0.8526986790088938,
            0.37740285561283066,
            -0.11062440441843718,
            -0.023849465019556843,
            0.03782845550726404,
        ),
        (
            0.7884856164055829,
            0.41809227322161724,
            -0.04068941760916406,
            -0.06453888262869706,
        ),
    ),
    "bior6.8": (
        (
            0.8259229974584023,
            0.4207962846098268,
            -0.09405920349573646,
            -0.07726317316720414,
            0.04973290349094079,
            0.01193456527972926,
            -0.016990639867602342,
            -0.0019142861290887667,
            0.0019088317364812906,
        ),
        (
            0.7589077294536541,
            0.41784910915027457,
            -0.04036797903033992,
            -0.07872200106262882,
            0.014467504896790148,
            0.014426282505624435,
        ),
    ),
}

MOST_LEVELS = 24
"""Halvings of the length; a latent frame of more samples is a mistake."""

WaveletName = Literal["bior2.2", "bior2.4", "bior2.6", "bior2.8", "bior4.4", "bior6.8"]


def filter_bank(wavelet: str) -> tuple[Tensor, Tensor]:
    """Analysis and synthesis filters, each (2 k): low-pass, high-pass; k is odd.

    Raises:
        ValueError: an unknown wavelet.
    """
    if wavelet not in _FILTERS:
        raise ValueError(f"wavelet must be one of {', '.join(_FILTERS)}, found {wavelet!r}")
    analysis, synthesis = (torch.tensor(half, dtype=torch.float64) for half in _FILTERS[wavelet])
    low = torch.cat([analysis.flip(0)[:-1], analysis])
    size, reach = low.shape[0], synthesis.shape[0] - 1
    low_synthesis = torch.zeros(size, dtype=torch.float64)
    centre = size // 2 - 1
    low_synthesis[centre - reach : centre + reach + 1] = torch.cat([synthesis.flip(0)[:-1], synthesis])
    sign = (-1.0) ** torch.arange(size, dtype=torch.float64)
    # Quadrature mirrors: each high-pass is the other side's low-pass with alternating signs.
    return torch.stack([low, (sign * low_synthesis).flip(0)]), torch.stack([low_synthesis, -sign * low])


def _per_channel(filters: Tensor, channels: int) -> Tensor:
    """(2 k) -> (2*channels channels k): the low-passes of all channels, then the high-passes."""
    kernel = torch.zeros(2, channels, channels, filters.shape[-1])
    index = torch.arange(channels)
    kernel[:, index, index] = filters.float()[:, None]
    return kernel.flatten(0, 1)


def _reflect(x: Tensor, reach: int) -> Tensor:
    """Extend both ends by mirroring; a clip shorter than `reach` is mirrored repeatedly."""
    n = x.shape[-1]
    if reach < n:
        return F.pad(x, (reach, reach), mode="reflect")
    period = max(1, 2 * n - 2)
    at = torch.arange(-reach, n + reach, device=x.device) % period
    return x[..., torch.minimum(at, period - at).clamp(max=n - 1)]


class _Kernel(nn.Module):
    """Holds the buffer `kernel` under the name that checkpoints use."""

    kernel: Tensor

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self.register_buffer("kernel", kernel)


class WaveletPretransform(Pretransform):
    """(b c n) -> (b c*2^levels n/2^levels); n must be a multiple of 2^levels.

    Args:
        channels: audio channels.
        levels: number of times that the length is halved, at most 24.
        wavelet: name of the wavelet, bior2.2 to bior6.8.
    """

    def __init__(
        self, *, channels: int, levels: int, wavelet: WaveletName, enable_grad: bool = False
    ) -> None:
        super().__init__(enable_grad=enable_grad)
        if channels < 1 or not 1 <= levels <= MOST_LEVELS:
            raise ValueError(
                f"channels must be at least 1, found {channels}, and levels from 1 to {MOST_LEVELS}, "
                f"found {levels}"
            )
        analysis, synthesis = filter_bank(wavelet)
        self.io_channels, self.levels = channels, levels
        self.encoded_channels = channels * 2**levels
        self.downsampling_ratio = 2**levels
        self.encoder = _Kernel(_per_channel(analysis, channels))
        self.decoder = _Kernel(_per_channel(synthesis, channels))
        self.freeze_unless_trained()

    def encode(self, audio: Tensor, *, noise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        if audio.shape[-1] % self.downsampling_ratio:
            raise ValueError(
                f"the wavelet needs a multiple of {self.downsampling_ratio} samples, found {audio.shape[-1]}"
            )
        x, c, kernel = audio, self.io_channels, self.encoder.kernel.to(audio.dtype)
        reach = kernel.shape[-1] // 2
        for _ in range(self.levels):
            low, bands = x[:, :c], x[:, c:]
            low = F.conv1d(_reflect(low, reach), kernel, stride=2)
            # The sub-bands of earlier levels are twice as long: fold pairs of frames into channels.
            bands = bands.unflatten(1, (-1, c)).unflatten(3, (-1, 2)).permute(0, 1, 4, 2, 3)
            x = torch.cat([low, bands.flatten(1, 3)], dim=1)
        return x

    def decode(self, latents: Tensor) -> Tensor:
        x, c, kernel = latents, self.io_channels, self.decoder.kernel.to(latents.dtype)
        pad = kernel.shape[-1] // 2 + 2
        for _ in range(self.levels):
            low, bands = x[:, : 2 * c], x[:, 2 * c :]
            # Reflect the interleaved signal, so that edges continue as in the analysis.
            interleaved = low.unflatten(1, (2, c)).permute(0, 2, 3, 1).flatten(2)
            interleaved = _reflect(interleaved, pad)
            low = interleaved.unflatten(2, (-1, 2)).permute(0, 3, 1, 2).flatten(1, 2)
            low = F.conv_transpose1d(low, kernel, stride=2, padding=kernel.shape[-1] // 2)
            low = low[..., pad - 1 : -pad]
            bands = bands.unflatten(1, (-1, 2, c)).permute(0, 1, 3, 4, 2).flatten(3).flatten(1, 2)
            x = torch.cat([low, bands], dim=1)
        return x
