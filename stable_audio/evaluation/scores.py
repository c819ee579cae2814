"""How many clips of a quickstart model are right, in all and in parts."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stable_audio.data.synthetic import ClipDescription
from stable_audio.evaluation.listening.verdict import DEFECTS, Verdict


@dataclass(frozen=True)
class Request:
    """One clip to generate.

    Attributes:
        clip: description of what is asked for.
        seconds: length of the sound, as far as a clip holds it.
    """

    clip: ClipDescription
    seconds: float

    @property
    def timbre(self) -> str:
        return self.clip.timbre

    @property
    def prompt(self) -> str:
        return self.clip.prompt

    def metadata(self) -> dict[str, object]:
        """The metadata that condition the model."""
        return {"prompt": self.prompt, "seconds_start": 0.0, "seconds_total": self.seconds}


@dataclass(frozen=True)
class GroupScores:
    """Scores of some of the requests: shares in [0, 1] of those to which each applies, 0 if there are none.

    Attributes:
        clips: number of requests.
        pitch: share of pitched requests of which every note has the right pitch.
        timbre: share with the right timbre.
        right: share in which pitch, timbre, loudness, length and vibrato are all right.
    """

    clips: int
    pitch: float
    timbre: float
    right: float

    @classmethod
    def of(cls, verdicts: Sequence[Verdict]) -> GroupScores:
        """Of what was heard of them."""
        return cls(
            clips=len(verdicts),
            pitch=share(v.pitch for v in verdicts),
            timbre=share(v.timbre for v in verdicts),
            right=share(v.right for v in verdicts),
        )


@dataclass(frozen=True)
class Scores:
    """Shares in [0, 1] and counts over all requests.

    Attributes:
        clips: number of requests.
        pitch: share of pitched requests of which every note has the right pitch.
        timbre: share of all requests with the right timbre.
        pitched_timbre: share of pitched requests with the right timbre.
        confusion: (requested sound, recognised sound) -> count.
        defects: name of the defect -> number of clips.
        peak: largest absolute sample.
        loudness: share with the level of the word.
        length: share that end when they should.
        vibrato: share with vibrato if and only if it was asked for, of single notes that are not short.
        right: share of all requests in which all of this is right.
        parts: scores of notes whose (timbre, pitch) pairs occur in training ("seen"), of the others ("held
            out"), of two notes ("sequences"), and of drums and noises ("drums").
    """

    clips: int
    pitch: float
    timbre: float
    pitched_timbre: float
    confusion: Counter[tuple[str, str]]
    defects: dict[str, int]
    peak: float
    loudness: float = 0.0
    length: float = 0.0
    vibrato: float = 0.0
    right: float = 0.0
    parts: dict[str, GroupScores] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, requests: Sequence[Request], verdicts: Sequence[Verdict]) -> Scores:
        """Of requests and what was heard of their answers."""
        pairs = list(zip(requests, verdicts))
        seen = [v for r, v in pairs if r.clip.pitches and not r.clip.held_out]
        held_out = [v for r, v in pairs if r.clip.held_out]
        return cls(
            clips=len(verdicts),
            pitch=share(v.pitch for v in verdicts),
            timbre=share(v.timbre for v in verdicts),
            pitched_timbre=share(v.timbre for v in [*seen, *held_out]),
            confusion=Counter((r.timbre, v.heard_as) for r, v in pairs),
            defects={name: sum(name in v.defects for v in verdicts) for name in DEFECTS},
            peak=max((v.peak for v in verdicts), default=0.0),
            loudness=share(v.loudness for v in verdicts),
            length=share(v.length for v in verdicts),
            vibrato=share(v.vibrato for v in verdicts),
            right=share(v.right for v in verdicts),
            parts={
                "seen": GroupScores.of(seen),
                "held out": GroupScores.of(held_out),
                "sequences": GroupScores.of([v for r, v in pairs if len(r.clip.pitches) > 1]),
                "drums": GroupScores.of([v for r, v in pairs if not r.clip.pitches]),
            },
        )

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

    def details(self) -> str:
        """The other shares, and a line for each part."""
        lines = [
            f"loudness {self.loudness:.1%}, length {self.length:.1%}, vibrato {self.vibrato:.1%}, "
            f"all right {self.right:.1%}"
        ]
        for name, part in self.parts.items():
            pitch = "     -" if name == "drums" else f"{part.pitch:6.1%}"
            lines.append(
                f"  {name:<9}  pitch {pitch}   timbre {part.timbre:6.1%}   "
                f"all right {part.right:6.1%}   {part.clips} clips"
            )
        return "\n".join(lines)

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


def share(flags: Iterable[bool | None]) -> float:
    """Share of the true ones among flags that are not None; 0 where there is none."""
    known = [flag for flag in flags if flag is not None]
    return sum(known) / len(known) if known else 0.0
