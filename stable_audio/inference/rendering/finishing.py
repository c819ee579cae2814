"""What happens to the samples of a clip before they are written: nothing, unless it is asked for."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from stable_audio.audio.loudness import integrated_loudness, true_peak
from stable_audio.audio.silence import sound_span

log = logging.getLogger(__name__)

LOUDNESS_RANGE = (-70.0, 0.0)
PEAK_RANGE = (-60.0, 20.0)
TRIM_RANGE = (-144.0, -0.1)


@dataclass(frozen=True, kw_only=True)
class Finishing:
    """Changes to finished clips, in this order; each is off where it is None.

    Attributes:
        trim_silence: remove what is below this level, in dB relative to full scale, at the start and end.
        loudness: bring the clip to this integrated loudness in LUFS (EBU R128, ITU-R BS.1770-4) by one gain.
        true_peak: turn the clip down, as a whole, until its true peak in dBTP (BS.1770-4, annex 2) is at most
            this; it goes before loudness.

    Raises:
        ValueError: a value out of range.
    """

    trim_silence: float | None = None
    loudness: float | None = None
    true_peak: float | None = None

    def __post_init__(self) -> None:
        ranges = {"trim_silence": TRIM_RANGE, "loudness": LOUDNESS_RANGE, "true_peak": PEAK_RANGE}
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} must be from {low:g} to {high:g} dB, found {value:g}")

    def __bool__(self) -> bool:
        return any(value is not None for value in asdict(self).values())

    def apply(self, audio: Tensor, sample_rate: int, name: str = "clip") -> tuple[Tensor, dict[str, Any]]:
        """(audio (c n), what was measured and done).

        Args:
            name: of the clip, for messages.
        """
        facts: dict[str, Any] = {}
        if self.trim_silence is not None:
            start, stop = sound_span(audio, sample_rate, threshold_db=self.trim_silence)
            if start == stop:
                log.warning("%s: is silent throughout, and is left as long as it is", name)
            else:
                facts["trimmed_seconds"] = [start / sample_rate, (audio.shape[-1] - stop) / sample_rate]
                audio = audio[:, start:stop]
        if self.loudness is None and self.true_peak is None:
            return audio, facts
        gain = self._gain_db(audio, sample_rate, name)
        audio = audio * 10 ** (gain / 20)
        facts["gain_db"] = round(gain, 3)
        facts["loudness"] = _rounded(integrated_loudness(audio, sample_rate))
        facts["true_peak"] = _rounded(true_peak(audio, sample_rate))
        return audio, facts

    def _gain_db(self, audio: Tensor, sample_rate: int, name: str) -> float:
        peak = true_peak(audio, sample_rate)
        loudness = integrated_loudness(audio, sample_rate)
        if peak == -math.inf or (self.loudness is not None and loudness == -math.inf):
            log.warning("%s: is too quiet to have a loudness, and is left as it is", name)
            gain = 0.0
        else:
            gain = 0.0 if self.loudness is None else self.loudness - loudness
        room = math.inf if self.true_peak is None else self.true_peak - peak
        if self.loudness is not None and room < gain:
            log.warning("%s: is %.1f dB quieter than asked for, to keep its true peak", name, gain - room)
        return min(gain, room)


NO_FINISHING = Finishing()


def _rounded(value: float) -> float | None:
    """To a thousandth; None for minus infinity, which JSON does not have."""
    return round(value, 3) if math.isfinite(value) else None
