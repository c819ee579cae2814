"""The JSON beside each rendered file: all that is needed to render it again, and figures of the result."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stable_audio.audio.atomic import atomic_write
from stable_audio.config.reading.values import dataclass_from
from stable_audio.config.reporting.problems import ConfigError, Loc, Problem, json_path
from stable_audio.config.sections.top import MAX_SAMPLE_SIZE
from stable_audio.diffusion.clip_frames import HEADROOM_SECONDS
from stable_audio.diffusion.settings import in_tuples
from stable_audio.inference.generation.settings import Sampling
from stable_audio.inference.precision import DTYPES
from stable_audio.inference.rendering.finishing import Finishing
from stable_audio.inference.rendering.stored import stored_content
from stable_audio.stored.hub_names import name_of_cached
from stable_audio.stored.shards_folder import is_shards, listed_files

FORMAT = "stable-audio render"
VERSION = 1

_EDGE = 1 << 20
NEWER: dict[str, Any] = {
    "apg_scale": None,
    "cfg_norm_threshold": 0.0,
    "headroom_seconds": HEADROOM_SECONDS,
    "cfg_schedule": None,
    "apg_momentum": None,
    "cfg_zero_star": None,
    "zero_init": None,
    "slot_scales": None,
    "negative_slots": None,
    "guide_scale": None,
    "forecast_every": None,
    "forecast_order": None,
}
"""Settings of sampling that the first recipes lack, and their values where they have no effect."""
_NEWER_VALUES = frozenset(
    (
        "adapters",
        "guide",
        "finishing",
        "inpaint_exact",
        "inpaint_repeats",
        "inversion_steps",
        "init_conditioning",
    )
    + ("to_conditioning", "to_seed", "mix", "loop", "window_seconds", "short")
)
"""Values of recipes that the first ones lack."""
_FILES = ("checkpoint", "pretransform", "init_audio", "inpaint_audio", "guide")


@dataclass(frozen=True)
class InputFile:
    """A file, or a folder with a checkpoint in parts, that a render depends on.

    Attributes:
        path: its absolute path at the time, or its name on the Hugging Face hub, with the commit.
        digest: digest of its content; see `file_digest`.
    """

    path: str
    digest: str

    @classmethod
    def of(cls, path: str | Path) -> InputFile:
        """The file at `path` as it is now."""
        name = name_of_cached(Path(path).absolute())
        return cls(str(name or Path(path).resolve()), file_digest(path))


@dataclass(frozen=True)
class AdapterFile(InputFile):
    """An adapter and how it was used.

    Attributes:
        strength: as in `AdapterUse`.
        interval: noise levels [low, high] at which it applied in the backbone.
        layer_filter: layers of the backbone to which it did not apply, as in `Gate`.
    """

    strength: float
    interval: list[float]
    layer_filter: str


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the sound of one file, as plain values.

    Attributes:
        checkpoint: the file with the weights.
        pretransform: the file with the autoencoder's weights, if separate.
        use_ema: whether the averaged weights were loaded.
        dtype: type of the backbone's weights.
        config: the model's configuration.
        sample_size: samples that were generated, before the cut to `seconds`.
        condition_audio: files that the conditioning names, by id.
        inpaint_seconds: spans (start, end) that were generated anew within inpaint_audio.
        adapters: in the order in which they applied.
        guide: the file of the weaker model that the clip was steered away from.
        finishing: what happened to the samples before they were written; None = nothing.
        inpaint_exact: whether all but inpaint_seconds is that of inpaint_audio, sample for sample.
        inpaint_repeats: as for `AudioInputs`, as are the two that follow.
        inversion_steps: of init_audio.
        init_conditioning: what init_audio is.
        to_conditioning: as for `Blend`, as are the two that follow.
        to_seed: seed of the noise to go to.
        mix: how far.
        loop: as for `ClipLength`, as are the two that follow.
        window_seconds: of windows.
        short: no more latents than the clip needs.
    """

    checkpoint: InputFile
    use_ema: bool
    dtype: str
    config: dict[str, Any]
    conditioning: dict[str, Any]
    negative_conditioning: dict[str, Any] | None
    seed: int
    seconds: float
    sample_size: int
    sampling: dict[str, Any]
    pretransform: InputFile | None = None
    init_audio: InputFile | None = None
    init_noise_level: float | None = None
    inpaint_audio: InputFile | None = None
    inpaint_seconds: list[list[float]] | None = None
    condition_audio: dict[str, InputFile] | None = None
    chunked_decode: bool = False
    adapters: list[AdapterFile] | None = None
    guide: InputFile | None = None
    finishing: Finishing | None = None
    inpaint_exact: bool | None = None
    inpaint_repeats: int | None = None
    inversion_steps: int | None = None
    init_conditioning: dict[str, Any] | None = None
    to_conditioning: dict[str, Any] | None = None
    to_seed: int | None = None
    mix: float | None = None
    loop: bool | None = None
    window_seconds: float | None = None
    short: bool | None = None

    def values(self) -> dict[str, Any]:
        """As JSON values; newer ones that are not in use are left out, as in files from before them.

        The config is that of the recipe itself, not a copy.
        """
        values = {**dataclasses.asdict(dataclasses.replace(self, config={})), "config": self.config}
        unused = [key for key in _NEWER_VALUES if values[key] in (None, [], {})]
        return {key: value for key, value in values.items() if key not in unused}

    def digest(self) -> str:
        """Hash of the recipe, with the digests of files, but without their paths."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        values = self.values()
        for adapter in values.get("adapters", ()):
            adapter.pop("path")
        for key in _FILES:
            if values.get(key) is not None:
                values[key].pop("path")
        sounds = values.pop("condition_audio")
        if sounds:
            values["condition_audio"] = {key: file["digest"] for key, file in sounds.items()}
            ids = {key.split(".")[0] for key in sounds}
            values["conditioning"] = {k: v for k, v in self.conditioning.items() if k not in ids}
        text = json.dumps(values, sort_keys=True, default=_plain)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def sampling_values(sampling: Sampling) -> dict[str, Any]:
    """A Sampling as JSON values, without the newer settings that are not in use.

    So the digests of clips that were rendered before there were these settings stay what they were.
    """
    values = json.loads(json.dumps(dataclasses.asdict(sampling), default=_plain))
    return {key: value for key, value in values.items() if key not in NEWER or value != NEWER[key]}


def sampling_from(values: dict[str, Any]) -> Sampling:
    """The Sampling of `sampling_values`."""
    return Sampling(**{key: in_tuples(value) for key, value in values.items()})


def file_digest(path: str | Path) -> str:
    """Hash of the size and both ends of a file, which identifies weights without reading gigabytes; of a
    checkpoint in parts, of the sizes and checksums that it lists.

    Raises:
        OSError: it cannot be read.
        ValueError: a checkpoint in parts without such a list.
    """
    if is_shards(Path(path)):
        listed = json.dumps(listed_files(Path(path)), sort_keys=True)
        return hashlib.sha256(listed.encode()).hexdigest()[:16]
    size = Path(path).stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        digest.update(file.read(_EDGE))
        file.seek(max(size - _EDGE, 0))
        digest.update(file.read(_EDGE))
    return digest.hexdigest()[:16]


def write_recipe(path: Path, recipe: Recipe, output: dict[str, Any], software: dict[str, Any]) -> None:
    """Write the JSON of a sound, which must be on disk already: the JSON marks both as complete."""
    content = {**_marked(recipe), "output": output, "software": software}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=_plain) + "\n", encoding="utf-8")


def _marked(recipe: Recipe) -> dict[str, Any]:
    return {"format": FORMAT, "version": VERSION, "digest": recipe.digest(), "recipe": recipe.values()}


def comment_of(recipe: Recipe) -> str:
    """The recipe as a comment within the sound file, in ASCII."""
    return json.dumps(_marked(recipe), default=_plain)


def read_recipe(path: str | Path) -> Recipe:
    """Read the recipe of a rendered file, from the JSON beside it or from the comment within it.

    Raises:
        ValueError: not such a file, one of a newer version, or one with mistakes, all of which are named.
    """
    content = stored_content(path)
    if content.get("format") != FORMAT:
        raise ValueError(f"{path}: is not the JSON of a rendered file; 'format' must be '{FORMAT}'")
    version = content.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise ValueError(f"{path}: has version {version!r}, this program knows up to {VERSION}")
    return checked_recipe(content.get("recipe"), source=str(path))


def checked_recipe(values: Any, *, source: str) -> Recipe:
    """Build a recipe from JSON values.

    Raises:
        ValueError: with every mistake and its place in the file called `source`.
    """
    at = ("recipe",)
    recipe = dataclass_from(values, Recipe, source=source, at=at)
    dataclass_from(recipe.sampling, Sampling, source=source, at=(*at, "sampling"))
    problems = [Problem(json_path((*at, *loc)), text) for loc, text in _impossible(recipe)]
    if problems:
        raise ConfigError(problems, source)
    return recipe


def _impossible(recipe: Recipe) -> Iterator[tuple[Loc, str]]:
    """Values of the right type with which no render is possible."""
    if not (math.isfinite(recipe.seconds) and recipe.seconds > 0):
        yield ("seconds",), f"found {recipe.seconds}; it must be above 0"
    if not 1 <= recipe.sample_size <= MAX_SAMPLE_SIZE:
        yield ("sample_size",), f"found {recipe.sample_size}; it must be from 1 to {MAX_SAMPLE_SIZE}"
    if recipe.dtype not in DTYPES:
        yield ("dtype",), f"found '{recipe.dtype}'; allowed: {', '.join(DTYPES)}"
    try:
        sampling_from(recipe.sampling).check()
    except ValueError as error:
        yield ("sampling",), str(error)
    for key in ("seed", "to_seed"):
        if (seed := getattr(recipe, key)) is not None and seed < 0:
            yield (key,), f"found {seed}; it must be at least 0"
    for index, span in enumerate(recipe.inpaint_seconds or []):
        if len(span) != 2 or not 0 <= span[0] < span[1]:
            yield ("inpaint_seconds", index), f"found {span}; it must be [start, end] with 0 <= start < end"
    for index, adapter in enumerate(recipe.adapters or []):
        if len(adapter.interval) != 2 or not 0 <= adapter.interval[0] <= adapter.interval[1] <= 1:
            yield (
                ("adapters", index, "interval"),
                f"found {adapter.interval}; it must be [low, high] with 0 <= low <= high <= 1",
            )
    for name, companion in (("init_audio", "init_noise_level"), ("inpaint_audio", "inpaint_seconds")):
        if getattr(recipe, name) is not None and getattr(recipe, companion) is None:
            yield (companion,), f"missing; '{name}' needs it"


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    return dict(value)
