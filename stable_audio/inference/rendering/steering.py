"""What determines a clip besides its conditioning and noise: sounds that steer it, and its form."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_audio.audio.io import read_audio
from stable_audio.audio.regions import check_regions
from stable_audio.inference.generation.audio_inputs import INPAINT_REPEATS
from stable_audio.inference.generation.lengths import ClipLength
from stable_audio.inference.rendering.flag_keys import flag_of_key
from stable_audio.inference.rendering.recipe import InputFile
from stable_audio.model import DiffusionModel

INIT_NOISE_LEVEL = 0.7
"""Of the sound that --init-audio names, so that the clips resemble it."""

_EDGE = 1e-6


class SteeringFiles:
    """Reads sounds, each once."""

    def __init__(self) -> None:
        self._sounds: dict[str, tuple[Tensor, int]] = {}
        self._files: dict[str, InputFile] = {}

    def read(self, path: str | Path) -> tuple[Tensor, int]:
        """(samples (c n), sample rate)."""
        if str(path) not in self._sounds:
            self._sounds[str(path)] = read_audio(path)
        return self._sounds[str(path)]

    def file(self, path: str | Path) -> InputFile:
        """The file for recipes."""
        if str(path) not in self._files:
            self._files[str(path)] = InputFile.of(path)
        return self._files[str(path)]


@dataclass(frozen=True)
class Steering:
    """Sounds that steer clips, and their form; see `generate` for the attributes that are not listed.

    Attributes:
        inpaint_spans: (start, end) in seconds of the spans of inpaint_audio that are generated anew.
        exact: whether all but these spans returns sample for sample, by models of any kind. Without,
            inpainting models give what they decode, as they did for the first recipes.
        files: attribute -> file of its sound, for recipes.
    """

    init_audio: Tensor | None = None
    init_sample_rate: int | None = None
    init_noise_level: float = 1.0
    inversion_steps: int = 0
    init_conditioning: Mapping[str, Any] | None = None
    inpaint_audio: Tensor | None = None
    inpaint_sample_rate: int | None = None
    inpaint_spans: Sequence[tuple[float, float]] = ()
    inpaint_repeats: int = INPAINT_REPEATS
    exact: bool = False
    loop: bool = False
    window_seconds: float | None = None
    short: bool = False
    files: Mapping[str, InputFile] = field(default_factory=dict)

    @classmethod
    def from_files(
        cls,
        *,
        init_audio: str | Path | None = None,
        init_noise_level: float | None = None,
        inpaint_audio: str | Path | None = None,
        inpaint_spans: Sequence[Sequence[float]] = (),
        extend: float | None = None,
        files: SteeringFiles | None = None,
        **values: Any,
    ) -> Steering:
        """Read the sounds.

        Args:
            init_noise_level: noise level of the initial audio; None = INIT_NOISE_LEVEL.
            extend: seconds to generate behind inpaint_audio, a span besides inpaint_spans.
            values: other attributes.

        Raises:
            ValueError: a span is empty or begins before 0, or a setting is for a sound that is not given.
        """
        files = files or SteeringFiles()
        _check(init_audio, init_noise_level, inpaint_audio, inpaint_spans, extend, values)
        if init_audio is not None:
            values["init_audio"], values["init_sample_rate"] = files.read(init_audio)
            values["init_noise_level"] = INIT_NOISE_LEVEL if init_noise_level is None else init_noise_level
        if inpaint_audio is not None:
            sound, rate = files.read(inpaint_audio)
            values.update(inpaint_audio=sound, inpaint_sample_rate=rate)
            end = sound.shape[-1] / rate
            more = [(end, end + extend)] if extend is not None else []
            values["inpaint_spans"] = [*((start, end) for start, end in inpaint_spans), *more]
        paths = {"init_audio": init_audio, "inpaint_audio": inpaint_audio}
        return cls(**values, files={k: files.file(p) for k, p in paths.items() if p is not None})

    @property
    def sound_seconds(self) -> float:
        """The length of inpaint_audio."""
        if self.inpaint_audio is None or self.inpaint_sample_rate is None:
            return 0.0
        return self.inpaint_audio.shape[-1] / self.inpaint_sample_rate

    @property
    def form(self) -> dict[str, Any]:
        """Keyword arguments of `ClipLength` besides the length itself."""
        return {"loop": self.loop, "window_seconds": self.window_seconds, "short": self.short}

    @property
    def key(self) -> Hashable:
        """Equal for steerings that are the same, by the digests of their files."""
        sounds = [name for name in ("init_audio", "inpaint_audio") if getattr(self, name) is not None]
        if any(name not in self.files for name in sounds):
            return id(self)
        files = {name: self.files[name].digest for name in sounds}
        plain = {k: v for k, v in vars(self).items() if k not in ("init_audio", "inpaint_audio", "files")}
        return json.dumps({**plain, "files": files}, sort_keys=True)

    def heard_seconds(self, model: DiffusionModel, seconds: float) -> float:
        """As for `ClipLength`."""
        return ClipLength(**self.form).heard_seconds(model, seconds)

    def late_span(self, model: DiffusionModel, sample_size: int) -> str | None:
        """What is wrong with a span that starts after the end of the clip."""
        for start, end in self.inpaint_spans if self.inpaint_audio is not None else ():
            if math.floor(start * model.sample_rate) >= sample_size:
                seconds = sample_size / model.sample_rate
                return f"the span {start:g} to {end:g} s starts after the end of the clip of {seconds:g} s"
        return None

    def arguments(
        self, model: DiffusionModel, sample_size: int, seconds: float | None = None
    ) -> dict[str, Any]:
        """Keyword arguments of `generate`.

        Args:
            sample_size: samples to generate.
            seconds: length of the clip, of which as much is generated at least; None: all of them.

        Raises:
            ValueError: a span starts after the end of the clip.
        """
        keywords: dict[str, Any] = {key: value for key, value in self.form.items() if value}
        if self.window_seconds is not None:
            keywords["window_seconds"] = self.window_seconds
        if self.init_audio is not None:
            keywords.update(
                init_audio=self.init_audio,
                init_sample_rate=self.init_sample_rate,
                init_noise_level=self.init_noise_level,
            )
            if self.inversion_steps:
                keywords["inversion_steps"] = self.inversion_steps
                keywords["init_conditioning"] = self.init_conditioning
        if self.inpaint_audio is not None:
            if problem := self.late_span(model, sample_size):
                raise ValueError(problem)
            keywords.update(inpaint_audio=self.inpaint_audio, inpaint_sample_rate=self.inpaint_sample_rate)
            keywords.update(self._parts(model, sample_size, seconds))
        return keywords

    def _parts(self, model: DiffusionModel, sample_size: int, seconds: float | None) -> dict[str, Any]:
        if not self.exact:
            mask = torch.ones(sample_size)
            for start, end in self.inpaint_spans:
                first, stop = math.floor(start * model.sample_rate), math.ceil(end * model.sample_rate)
                mask[first:stop] = 0
            return {"inpaint_mask": mask}
        length = sample_size / model.sample_rate if seconds is None else seconds
        open_end = self.sound_seconds <= length + _EDGE  # behind it there is nothing to keep
        spans = [
            (start, math.inf if open_end and end >= length - _EDGE else end)
            for start, end in self.inpaint_spans
        ]
        return {"inpaint_seconds": spans, "inpaint_repeats": self.inpaint_repeats}


def _check(
    init_audio: Any, level: Any, inpaint_audio: Any, spans: Any, extend: Any, values: Mapping[str, Any]
) -> None:
    if spans and inpaint_audio is None:
        raise ValueError("--inpaint needs --inpaint-audio, the sound to keep elsewhere")
    if extend is not None and inpaint_audio is None:
        raise ValueError("--extend needs --inpaint-audio, the sound that goes on")
    if extend is not None and not 0 < extend < math.inf:
        raise ValueError(f"--extend must be above 0 seconds, found {extend}")
    if level is not None and init_audio is None:
        raise ValueError("--init-noise-level needs --init-audio")
    if level is not None and not 0 < level < math.inf:
        raise ValueError(f"--init-noise-level must be above 0, found {level}")
    if values.get("inversion_steps") and init_audio is None:
        raise ValueError("--inversion-steps needs --init-audio, the sound to lead back to its noise")
    if values.get("init_conditioning") is not None and not values.get("inversion_steps"):
        raise ValueError("--init-prompt, what --init-audio is, needs --inversion-steps")
    if bad := [span for span in spans if not 0 <= span[0] < span[1]]:
        raise ValueError(f"--inpaint needs 0 <= START < END in seconds, found {bad[0]}")
    check_regions(spans)
    for name, least in (("inversion_steps", 0), ("inpaint_repeats", 1), ("window_seconds", 0)):
        if (value := values.get(name)) is not None and not least <= value < math.inf:
            raise ValueError(f"{flag_of_key(name)} must be at least {least}, found {value}")


NO_STEERING = Steering()
"""Clips that start from noise."""
