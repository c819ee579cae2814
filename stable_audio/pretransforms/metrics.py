"""Metrics of validation of autoencoders: modules (reals, decoded) -> scalar."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from stable_audio.audio.resample import resample
from stable_audio.pretransforms.losses import (
    MultiResolutionMelLoss,
    MultiResolutionSTFTLoss,
    SISDRLoss,
    distance_for,
)

PESQ_RATES = {"wb": 16_000, "nb": 8_000}
"""Mode of PESQ -> its sample rate in Hz."""


class SISDR(SISDRLoss):
    """Scale-invariant signal-to-distortion ratio in dB of the second against the first; higher is better."""

    def forward(self, reals: Tensor, decoded: Tensor) -> Tensor:
        """Audio (b c n) twice -> scalar."""
        return -super().forward(decoded, reals)


class STFTDistance(nn.Module):
    """Multi-resolution STFT distance with windows that fit the clips."""

    def forward(self, reals: Tensor, decoded: Tensor) -> Tensor:
        """Audio (b c n) twice -> scalar."""
        return distance_for(reals.shape[-1]).to(reals.device)(reals, decoded)


class PESQ(nn.Module):
    """Perceptual quality of speech, about 1 (bad) to 4.6 (ITU-T P.862); needs the extra [pesq].

    The channels are averaged. Clips without speech do not count; the result is NaN if none has speech.

    Args:
        sample_rate: sample rate of the audio in Hz; the audio is converted.
        mode: "wb": wide band at 16 kHz (P.862.2), "nb": narrow band at 8 kHz.

    Raises:
        ImportError: the package pesq is missing.
    """

    def __init__(self, *, sample_rate: int, mode: Literal["wb", "nb"] = "wb") -> None:
        super().__init__()
        if mode not in PESQ_RATES:
            raise ValueError(f'mode of pesq must be "wb" or "nb", found {mode!r}')
        self.sample_rate, self.mode = sample_rate, mode
        self._package()

    def forward(self, reals: Tensor, decoded: Tensor) -> Tensor:
        """Audio (b c n) twice -> scalar."""
        results = [self._score(a, b) for a, b in zip(reals.cpu(), decoded.cpu())]
        scores = [score for score in results if score is not None]
        return reals.new_tensor(sum(scores) / len(scores) if scores else float("nan"))

    def _score(self, real: Tensor, decoded: Tensor) -> float | None:
        package, rate = self._package(), PESQ_RATES[self.mode]
        x, y = (resample(v.float().mean(0, keepdim=True), self.sample_rate, rate)[0] for v in (real, decoded))
        if not bool(torch.isfinite(y).all()):
            return None
        score = float(
            package.pesq(rate, x.numpy(), y.numpy(), self.mode, on_error=package.PesqError.RETURN_VALUES)
        )
        return score if score > 0 else None  # errors are negative

    @staticmethod
    def _package() -> Any:
        try:
            import pesq
        except ImportError as error:
            raise ImportError(
                '$.training.eval_loss_configs.pesq needs the package pesq: pip install "stable-audio[pesq]"'
            ) from error
        return pesq


METRICS: dict[str, Any] = {
    "stft": MultiResolutionSTFTLoss,
    "sisdr": SISDR,
    "mel": MultiResolutionMelLoss,
    "pesq": PESQ,
}


def default_metrics() -> dict[str, nn.Module]:
    """The metrics if a config names none."""
    return {"stft": STFTDistance(), "sisdr": SISDR()}
