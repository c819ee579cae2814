"""What a quickstart model has to reach, and what its baselines must not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from stable_audio.evaluation.scores import Scores


@dataclass(frozen=True, kw_only=True)
class Goals:
    """Shares in [0, 1].

    Attributes:
        pitch: least share of right pitches, of notes that occur in training.
        timbre: least share of right timbres, of sounds that occur in training.
        held_out: least share of both, of notes whose (timbre, pitch) pair does not.
        chance: greatest share of both without conditioning or without training.
        reconstruction: least share of right timbres of rendered clips that go through the pretransform alone;
            None: any.
    """

    pitch: float = 0.98
    timbre: float = 0.95
    held_out: float = 0.85
    chance: float = 0.1
    reconstruction: float | None = None

    def __post_init__(self) -> None:
        for name, share in vars(self).items():
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"the target of {name} must be a share from 0 to 1, found {share:g}")

    @classmethod
    def uniform(cls, target: float) -> Goals:
        """The same share for the three."""
        return cls(pitch=target, timbre=target, held_out=target)

    def missed(self, scores: Scores) -> list[str]:
        """One phrase for each goal that a model misses."""
        seen, held_out, drums = (scores.parts[name] for name in ("seen", "held out", "drums"))
        sounds = seen.clips + drums.clips
        timbre = (seen.clips * seen.timbre + drums.clips * drums.timbre) / max(1, sounds)
        shares = {"pitch": (seen.pitch, self.pitch), "timbre": (timbre, self.timbre)}
        if held_out.clips:
            shares["pitch of held-out pairs"] = (held_out.pitch, self.held_out)
            shares["timbre of held-out pairs"] = (held_out.timbre, self.held_out)
        return [
            f"{name} {value:.1%}, not {least:.1%}" for name, (value, least) in shares.items() if value < least
        ]

    def beyond_chance(self, label: str, scores: Scores) -> list[str]:
        """One phrase for each share of a baseline above chance, which means that the measure is wrong."""
        shares = {"pitch": scores.pitch, "timbre": scores.timbre}
        return [
            f"{name} of {label} {value:.1%}, more than {self.chance:.1%}"
            for name, value in shares.items()
            if value > self.chance
        ]

    def missed_by_reconstruction(self, label: str, scores: Scores | None) -> list[str]:
        """One phrase if the representation misses its goal, or if nobody judged it."""
        if self.reconstruction is None:
            return []
        if scores is None:
            return [f"timbre of {label} not measured, not {self.reconstruction:.1%}"]
        if scores.timbre < self.reconstruction:
            return [f"timbre of {label} {scores.timbre:.1%}, not {self.reconstruction:.1%}"]
        return []


class Judged(Protocol):
    """A model and how it did."""

    @property
    def label(self) -> str: ...

    @property
    def scores(self) -> Scores: ...


def missed_goals(
    judged: Sequence[Judged], goals: Goals, *, trained: str, reconstruction: str, baselines: Sequence[str]
) -> list[str]:
    """All goals that were missed, by the trained model, by its pretransform alone or by a baseline."""
    by_label = {one.label: one.scores for one in judged}
    missed = goals.missed(by_label[trained]) if trained in by_label else []
    missed += goals.missed_by_reconstruction(reconstruction, by_label.get(reconstruction))
    for label in baselines:
        if label in by_label:
            missed += goals.beyond_chance(label, by_label[label])
    return missed
