"""Measure how well a model trained on the synthetic collection follows requests, without another model.

Every pitch of every timbre and every unpitched sound is requested; the pitch is read from the spectrum,
the timbre is that of the nearest class mean, and the waveform is checked for defects.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stable_audio.data.synthetic import LOWEST_PITCH, NUM_PITCHES, Clip, SyntheticDataset, note_frequency
from stable_audio.evaluation.pitch import Array, detect_pitch, semitones_between
from stable_audio.evaluation.timbre import TimbreClassifier
from stable_audio.types import Metadata

CALIBRATION_SEED = 101
REQUEST_SEED = 202
"""Seeds of collections that no configuration trains on."""

PITCH_TOLERANCE = 0.5
"""Semitones."""

TAIL_DB = -40.0
TAIL_MARGIN = 0.06
"""After the requested length and this many seconds, the level must be this far below the peak."""

CLICK_MARGIN = 1.5
"""A jump that is this many times the largest one of the rendered class is a click."""


@dataclass(frozen=True)
class Request:
    """One clip to generate.

    Attributes:
        midi: MIDI note number; None for unpitched sounds.
        seconds: length of the sound.
    """

    timbre: str
    midi: int | None
    prompt: str
    seconds: float

    def metadata(self) -> Metadata:
        """The metadata that condition the model."""
        return {"prompt": self.prompt, "seconds_start": 0.0, "seconds_total": self.seconds}


@dataclass(frozen=True)
class Scores:
    """Shares in [0, 1] and counts over all requests.

    Attributes:
        pitch: share of pitched requests within PITCH_TOLERANCE.
        timbre: share of all requests with the right timbre.
        pitched_timbre: share of pitched requests with the right timbre.
        confusion: (requested sound, recognised sound) -> count.
        defects: name of the defect -> count.
        peak: largest absolute sample.
    """

    clips: int
    pitch: float
    timbre: float
    pitched_timbre: float
    confusion: Counter[tuple[str, str]]
    defects: dict[str, int]
    peak: float

    def as_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        rows: dict[str, dict[str, int]] = {}
        for (requested, recognised), count in self.confusion.items():
            rows.setdefault(requested, {})[recognised] = count
        return {**dataclasses.asdict(self), "confusion": rows}

    def summary(self) -> str:
        """One line."""
        defects = ", ".join(f"{name} {count}" for name, count in self.defects.items())
        return (
            f"pitch {self.pitch:6.1%}   timbre {self.timbre:6.1%} (pitched {self.pitched_timbre:6.1%})   "
            f"{self.clips} clips, peak {self.peak:.2f}, {defects}"
        )

    def table(self) -> str:
        """The confusion table: a row per requested sound, a column per recognised sound."""
        names = list(dict.fromkeys(requested for requested, _ in self.confusion))
        names += sorted({recognised for _, recognised in self.confusion} - set(names))
        width = max(len(n) for n in names)
        lines = [" " * width + "  " + " ".join(f"{n[:7]:>7}" for n in names) + "   (recognised)"]
        for requested in dict.fromkeys(a for a, _ in self.confusion):
            cells = " ".join(f"{self.confusion[requested, recognised] or '.':>7}" for recognised in names)
            lines.append(f"{requested:<{width}}  {cells}")
        return "\n".join(lines)


class QuickstartEvaluator:
    """Scores clips of one sample rate and length; calibrated on clips that it renders itself."""

    def __init__(
        self,
        *,
        sample_rate: int,
        sample_size: int,
        lowest_pitch: int = LOWEST_PITCH,
        num_pitches: int = NUM_PITCHES,
    ) -> None:
        self.sample_rate, self.sample_size = sample_rate, sample_size
        self.lowest_pitch, self.num_pitches = lowest_pitch, num_pitches
        rendered = self._rendered()
        self.classifier = TimbreClassifier.calibrate(rendered, sample_rate)
        self._largest_jump: dict[str, float] = {}
        for samples, timbre in rendered:
            self._largest_jump[timbre] = max(self._largest_jump.get(timbre, 0.0), _jump(samples))

    def _collection(self, seed: int, split: Literal["train", "val"]) -> SyntheticDataset:
        return SyntheticDataset(
            sample_rate=self.sample_rate,
            sample_size=self.sample_size,
            num_clips=100_000,
            seed=seed,
            split=split,
            lowest_pitch=self.lowest_pitch,
            num_pitches=self.num_pitches,
        )

    def _rendered(self) -> list[tuple[Array, str]]:
        collection = self._collection(CALIBRATION_SEED, "train")
        return [
            (collection[i][0][0].double().numpy(), clip.timbre)
            for i, clip in self._single_notes(collection, 1)
        ]

    def _single_notes(self, collection: SyntheticDataset, repeats: int) -> list[tuple[int, Clip]]:
        clips = ((i, collection.clip(i)) for i in range(repeats * len(collection.classes)))
        return [(i, clip) for i, clip in clips if len(clip.voices) == 1]

    def requests(self, *, repeats: int = 1, seed: int = REQUEST_SEED) -> list[Request]:
        """Every class `repeats` times, with captions and lengths independent of the training clips."""
        collection = self._collection(seed, "val")
        longest = self.sample_size / self.sample_rate
        return [
            Request(c.timbre, c.pitches[0] if c.pitches else None, c.prompt, min(c.seconds, longest))
            for _, c in self._single_notes(collection, repeats)
        ]

    def originals(self, *, repeats: int = 1, seed: int = REQUEST_SEED) -> Tensor:
        """The collection's clips (k c n) for the `requests` with the same arguments."""
        collection = self._collection(seed, "val")
        return torch.stack([collection[i][0] for i, _ in self._single_notes(collection, repeats)])

    def score(self, clips: Tensor | Sequence[Tensor], requests: Sequence[Request]) -> Scores:
        """Score clips (k c n) against their requests.

        Raises:
            ValueError: there are not as many clips as requests.
        """
        if len(clips) != len(requests):
            raise ValueError(f"{len(clips)} clips for {len(requests)} requests")
        mono = [np.asarray(clip.detach().double().mean(dim=0).cpu()) for clip in clips]
        timbres = [self.classifier.classify(samples, self.sample_rate) for samples in mono]
        matches = [timbre == r.timbre for timbre, r in zip(timbres, requests)]
        pitched = [i for i, r in enumerate(requests) if r.midi is not None]
        return Scores(
            clips=len(mono),
            pitch=_share([self._right_pitch(mono[i], requests[i]) for i in pitched]),
            timbre=_share(matches),
            pitched_timbre=_share([matches[i] for i in pitched]),
            confusion=Counter((r.timbre, timbre) for r, timbre in zip(requests, timbres)),
            defects=self._defects(mono, requests),
            peak=max(float(np.abs(samples).max()) for samples in mono),
        )

    def _right_pitch(self, samples: Array, request: Request) -> bool:
        frequency = detect_pitch(samples, self.sample_rate)
        if frequency is None or request.midi is None:
            return False
        return abs(semitones_between(frequency, note_frequency(request.midi))) <= PITCH_TOLERANCE

    def _defects(self, mono: Sequence[Array], requests: Sequence[Request]) -> dict[str, int]:
        pairs = list(zip(mono, requests))
        return {
            "clipped": sum(bool(np.abs(samples).max() > 1) for samples in mono),
            "clicks": sum(_jump(s) > CLICK_MARGIN * self._largest_jump[r.timbre] for s, r in pairs),
            "noisy tails": sum(not self._quiet_tail(s, r) for s, r in pairs),
            "wrong length": sum(len(samples) != self.sample_size for samples in mono),
        }

    def _quiet_tail(self, samples: Array, request: Request) -> bool:
        tail = samples[round((request.seconds + TAIL_MARGIN) * self.sample_rate) :]
        if len(tail) == 0:
            return True
        level = np.sqrt(np.square(tail).mean()) / max(np.abs(samples).max(), 1e-9)
        return bool(level < 10 ** (TAIL_DB / 20))


def _jump(samples: Array) -> float:
    """Largest second difference."""
    return float(np.abs(np.diff(samples, n=2)).max()) if len(samples) > 2 else 0.0


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0
