"""How clips are edited, as plain values of a command line or of a line in a file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stable_audio.audio.regions import Region, check_regions, parse_regions
from stable_audio.inference.generation.blends import Blend
from stable_audio.inference.generation.loops import seconds_of_bars
from stable_audio.inference.rendering.flag_keys import with_keys
from stable_audio.inference.rendering.jobs import Job, listed
from stable_audio.inference.rendering.steering import NO_STEERING, Steering, SteeringFiles


@dataclass(frozen=True, kw_only=True)
class Edit:
    """How a clip is edited; None leaves it to the run, and then to the defaults of `generate`.

    Attributes:
        init_audio: file to start from.
        init_noise_level: as for `AudioInputs`, as are the two that follow.
        inversion_steps: of init_audio.
        init_conditioning: what init_audio is.
        inpaint_audio: file of which parts are made anew.
        inpaint: these parts, as a text ("5:10,12:13") or as pairs of seconds.
        inpaint_repeats: as for `AudioInputs`.
        extend: seconds by which inpaint_audio goes on.
        to_conditioning: as for `Blend`, as are the two that follow.
        to_seed: seed of the noise to go to.
        mix: how far.
        loop: as for `ClipLength`, as are the two that follow.
        window_seconds: of windows.
        short: no more latents than the clip needs.
        bars: length of the clip in bars, with bpm.
        bpm: beats per minute.
        beats: beats of a bar.
    """

    init_audio: str | None = None
    init_noise_level: float | None = None
    inversion_steps: int | None = None
    init_conditioning: dict[str, Any] | None = None
    inpaint_audio: str | None = None
    inpaint: str | list[list[float]] | None = None
    inpaint_repeats: int | None = None
    extend: float | None = None
    to_conditioning: dict[str, Any] | None = None
    to_seed: int | None = None
    mix: float | None = None
    loop: bool | None = None
    window_seconds: float | None = None
    short: bool | None = None
    bars: float | None = None
    bpm: float | None = None
    beats: float | None = None

    def regions(self) -> list[Region]:
        """The parts of inpaint_audio to make anew.

        Raises:
            ValueError: a text that is none, or a region that is empty or begins before 0.
        """
        if self.inpaint is None:
            return []
        if isinstance(self.inpaint, str):
            return parse_regions(self.inpaint)
        if bad := [pair for pair in self.inpaint if len(pair) != 2]:
            raise ValueError(f"inpaint must be pairs [START, END] in seconds, found {bad[0]}")
        pairs = [(start, end) for start, end in self.inpaint]
        check_regions(pairs)
        return pairs

    def seconds(self) -> float | None:
        """The length that bars and bpm give.

        Raises:
            ValueError: one of them without the other.
        """
        if self.bars is None and self.bpm is None and self.beats is None:
            return None
        if self.bars is None or self.bpm is None:
            raise ValueError("a length in bars needs both bars and bpm, such as 4 and 120")
        return seconds_of_bars(self.bars, bpm=self.bpm, **_not_none({"beats": self.beats}))


EDIT_KEYS = tuple(field.name for field in dataclasses.fields(Edit))
"""Keys of a line in a file of jobs."""


def edited(
    jobs: Sequence[Job], run: Edit, files: SteeringFiles | None = None, *, seconds: float | None = None
) -> list[Job]:
    """Jobs with what they are edited with, their own values before those of the run.

    Args:
        files: reads sounds, each once for all jobs; None: makes its own.
        seconds: length of jobs without their own.

    Raises:
        ValueError: with the origin of everything that is wrong.
    """
    files = files or SteeringFiles()
    steerings: dict[str, Steering] = {}
    finished, problems = [], []
    for job in jobs:
        edit = replace(run, **job.edit)
        key = json.dumps(dataclasses.asdict(edit), sort_keys=True)
        try:
            if key not in steerings:
                steerings[key] = _steering(edit, files)
            finished.append(_edited(job, edit, steerings[key], seconds))
        except ValueError as error:
            own = with_keys(str(error), form="'{}'", only=EDIT_KEYS)
            problems.append(f"{job.source}: {own}" if job.edit else str(error))
    if problems:
        raise ValueError(listed(list(dict.fromkeys(problems))))
    return finished


def _edited(job: Job, edit: Edit, steering: Steering, seconds: float | None) -> Job:
    length = edit.seconds()
    if length is not None and (job.seconds is not None or seconds is not None):
        raise ValueError("bars and bpm give a length, and so does seconds; leave one out")
    Blend(to_conditioning=edit.to_conditioning, to_seeds=edit.to_seed, mix=edit.mix or 0.0)
    if (edit.to_conditioning is not None or edit.to_seed is not None) and edit.mix is None:
        raise ValueError("to_conditioning and to_seed need mix, 0 to 1, which says how far to go to them")
    if edit.to_seed is not None and edit.to_seed < 0:
        raise ValueError(f"--to-seed must be at least 0, found {edit.to_seed}")
    if edit.extend is not None:
        if job.seconds is not None or seconds is not None or length is not None:
            raise ValueError("extend gives the length of the clip; leave out seconds, bars and bpm")
        length = steering.sound_seconds + edit.extend
    return replace(
        job,
        seconds=job.seconds if length is None else length,
        steering=steering,
        to_conditioning=edit.to_conditioning,
        to_seed=edit.to_seed,
        mix=edit.mix or 0.0,
    )


def _steering(edit: Edit, files: SteeringFiles) -> Steering:
    names = ("init_audio", "init_noise_level", "inversion_steps", "init_conditioning", "inpaint_audio") + (
        ("inpaint_repeats", "extend", "loop", "window_seconds", "short")
    )
    values = _not_none({name: getattr(edit, name) for name in names})
    regions = edit.regions()
    if edit.inpaint_audio is not None and not regions and edit.extend is None:
        raise ValueError("--inpaint-audio needs --inpaint or --extend, which say what is made anew")
    if not values and not regions:
        return NO_STEERING
    return Steering.from_files(files=files, inpaint_spans=regions, exact=True, **values)


def _not_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
