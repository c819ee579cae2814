"""Measure how well a model trained on the synthetic collection follows requests, without another model.

Every pitch of every timbre, sequences of two notes and every unpitched sound are requested. Clips are
compared with rendered ones by the thresholds of `evaluation.listening.limits`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from stable_audio.data.synthetic import LOWEST_PITCH, NUM_PITCHES, SyntheticDataset
from stable_audio.data.synthetic.dataset import SECONDS
from stable_audio.data.synthetic.held_out import HELD_OUT_SHARE
from stable_audio.data.synthetic.rendering import SoundFormula
from stable_audio.evaluation.listening.references import References
from stable_audio.evaluation.listening.verdict import Verdict, judge
from stable_audio.evaluation.scores import Request, Scores

REQUEST_SEED = 202
"""Seed of a collection that no configuration trains on."""


class QuickstartEvaluator:
    """Scores clips of one sample rate and length against clips that it renders itself.

    Args:
        sample_rate: sample rate of the clips in Hz.
        sample_size: length of the clips in samples.
        lowest_pitch: as in the dataset that the model was trained on.
        num_pitches: as in the dataset.
        held_out_share: as in the dataset.
        words: as in the dataset.
        seconds: as in the dataset.
        more: pitched sounds that it knows besides those of the collection, by name.
    """

    def __init__(
        self,
        *,
        sample_rate: int,
        sample_size: int,
        lowest_pitch: int = LOWEST_PITCH,
        num_pitches: int = NUM_PITCHES,
        held_out_share: float = HELD_OUT_SHARE,
        words: bool = True,
        seconds: tuple[float, float] = SECONDS,
        more: Mapping[str, SoundFormula] = MappingProxyType({}),
    ) -> None:
        self.sample_rate, self.sample_size = sample_rate, sample_size
        self.lowest_pitch, self.num_pitches = lowest_pitch, num_pitches
        self.held_out_share, self.words, self.seconds = held_out_share, words, seconds
        self.references = References(sample_rate, more=more)

    def _collection(self, seed: int) -> SyntheticDataset:
        return SyntheticDataset(
            sample_rate=self.sample_rate,
            sample_size=self.sample_size,
            num_clips=100_000,
            seed=seed,
            split="val",
            lowest_pitch=self.lowest_pitch,
            num_pitches=self.num_pitches,
            held_out_share=self.held_out_share,
            words=self.words,
            seconds=self.seconds,
        )

    def requests(self, *, repeats: int = 1, seed: int = REQUEST_SEED, step: int = 1) -> list[Request]:
        """Every class `repeats` times, with captions and lengths independent of the training clips.

        Args:
            step: take only every `step`-th.
        """
        collection = self._collection(seed)
        longest = self.sample_size / self.sample_rate
        clips = (collection.clip(i) for i in range(0, repeats * len(collection.classes), step))
        return [Request(clip, min(clip.seconds, longest)) for clip in clips]

    def originals(self, *, repeats: int = 1, seed: int = REQUEST_SEED, step: int = 1) -> Tensor:
        """The collection's clips (k c n) for the `requests` with the same arguments."""
        collection = self._collection(seed)
        return torch.stack([collection[i][0] for i in range(0, repeats * len(collection.classes), step)])

    def judge(self, clips: Tensor | Sequence[Tensor], requests: Sequence[Request]) -> list[Verdict]:
        """Compare clips (k c n), mixed to mono, with their requests.

        Raises:
            ValueError: there are not as many clips as requests.
        """
        if len(clips) != len(requests):
            raise ValueError(f"{len(clips)} clips for {len(requests)} requests")
        mono = (np.nan_to_num(clip.detach().double().mean(dim=0).cpu().numpy()) for clip in clips)
        return [
            judge(samples, request.clip, self.references, sample_size=self.sample_size)
            for samples, request in zip(mono, requests)
        ]

    def score(self, clips: Tensor | Sequence[Tensor], requests: Sequence[Request]) -> Scores:
        """Score clips (k c n) against their requests.

        Raises:
            ValueError: there are not as many clips as requests.
        """
        return Scores.of(requests, self.judge(clips, requests))
