"""Names of rendered files, from a template such as `{index}_{prompt}_{seed}`."""

from __future__ import annotations

import dataclasses
import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_audio.inference.rendering.jobs import Job, listed
from stable_audio.inference.rendering.recipe import InputFile, Recipe
from stable_audio.wording import did_you_mean

DEFAULT_NAME = "{index}_{name}_{digest}"

MAX_BYTES = 200
"""Of a name without its suffix: file systems end at 255, and temporary names are longer by 30."""

_WORDS = 40
_NO_NAMES = ("config", "conditioning", "sampling", "adapters", "finishing", "condition_audio", "sample_size")
_RECIPE = tuple(f.name for f in dataclasses.fields(Recipe) if f.name not in _NO_NAMES)
"""Values of a recipe that can be fields of names."""

_DIGEST = 8
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f\ud800-\udfff]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names of devices on Windows, whatever their suffix."""


@dataclass(frozen=True)
class NameTemplate:
    """Text with fields in braces, as for `str.format`, for instance `{index:05d}` or `{cfg_scale:.1f}`.

    Fields are index, name (the clip's own, or its first text), digest (of the recipe), seed, seconds,
    checkpoint, every setting of sampling, every key of the conditioning, and values of edits that are in use.

    Raises:
        ValueError: a brace without its partner, or a character that no file name can have everywhere.
    """

    text: str = DEFAULT_NAME

    def __post_init__(self) -> None:
        try:
            parts = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise ValueError(f"--name '{self.text}': {error}") from error
        literal = "".join(part[0] for part in parts)
        if bad := _FORBIDDEN.search(literal):
            raise ValueError(
                f"--name '{self.text}': {bad.group()!r} cannot be part of a file name on every system"
            )
        for _, name, spec, conversion in parts:
            if name is not None and (not re.fullmatch(r"[\w-]+", name) or conversion or "{" in (spec or "")):
                raise ValueError(
                    f"--name '{self.text}': a field is a name in braces, with a format at most, such as "
                    f"{{seed}} or {{index:05d}}; found '{{{name}}}'"
                )

    def stem(self, index: int, job: Job, recipe: Recipe) -> str:
        """The name of a clip without suffix.

        Raises:
            ValueError: a field that this clip has no value for, or a format that does not fit the value.
        """
        values = _values(index, job, recipe)
        words = []
        for literal, name, spec, _ in string.Formatter().parse(self.text):
            words.append(literal)
            if name is None:
                continue
            if name not in values:
                raise ValueError(
                    f"{job.source}: --name has {{{name}}}, which this clip has no value for; "
                    f"{did_you_mean(name, values)}"
                )
            words.append(_formatted(name, values[name], spec or "", job))
        stem = "".join(words).strip(" .")
        return f"{stem}_" if _RESERVED.fullmatch(stem) else stem


def stems(template: NameTemplate, jobs: Sequence[Job], recipes: Sequence[Recipe]) -> list[str]:
    """The names of all clips, which differ on every file system.

    Raises:
        ValueError: a name is empty or too long, or several clips have one name; all of them are listed.
    """
    problems: list[str] = []
    names: list[str] = []
    owners: dict[str, int] = {}
    for index, (job, recipe) in enumerate(zip(jobs, recipes)):
        try:
            name = template.stem(index, job, recipe)
        except ValueError as error:
            problems.append(str(error))
            continue
        names.append(name)
        if not name or len(name.encode()) > MAX_BYTES:
            problems.append(
                f"{job.source}: the name '{name}' has {len(name.encode())} bytes, not 1 to {MAX_BYTES}"
            )
        # Some file systems ignore case, some store characters in another form.
        first = owners.setdefault(unicodedata.normalize("NFKC", name).casefold(), index)
        if first != index:
            problems.append(
                f"{job.source}: the name '{name}' is that of {jobs[first].source}, too; --name needs another "
                "field, such as {index} or {digest}"
            )
    if problems:
        raise ValueError(listed(list(dict.fromkeys(problems))))
    return names


def _values(index: int, job: Job, recipe: Recipe) -> dict[str, Any]:
    sounds = recipe.condition_audio or ()
    conditioning = {
        key: Path(value).stem if key in sounds and isinstance(value, str) else value
        for key, value in job.conditioning.items()
    }
    texts = {key: value for key, value in conditioning.items() if isinstance(value, str) and value.strip()}
    ordered = [value for key, value in texts.items() if key not in sounds]
    ordered += [value for key, value in texts.items() if key in sounds]
    return {
        **_of_recipe(recipe),
        **conditioning,
        **recipe.sampling,
        "index": index,
        "name": job.name or (ordered[0] if ordered else "clip"),
        "digest": recipe.digest()[:_DIGEST],
        "seed": recipe.seed,
        "seconds": recipe.seconds,
        "checkpoint": Path(recipe.checkpoint.path).stem,
    }


def _of_recipe(recipe: Recipe) -> dict[str, Any]:
    """The values of edits and the like that are in use; of a file its name."""
    values = {name: value for name, value in vars(recipe).items() if name in _RECIPE and value is not None}
    return {k: Path(v.path).stem if isinstance(v, InputFile) else v for k, v in values.items()}


def _formatted(name: str, value: Any, spec: str, job: Job) -> str:
    if name == "index":
        spec = spec or "04d"
    try:
        text = format(value, spec) if spec else _text(value)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{job.source}: --name has {{{name}:{spec}}}, but {name} is {value!r}: {error}"
        ) from error
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return re.sub(r"[^\w.+-]+", "-", text).strip("-") or "0" if number else slug(text)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return "-".join(f"{key}-{_text(v)}" for key, v in value.items())
    if isinstance(value, (list, tuple)):
        return "-".join(map(_text, value))
    return str(value)


def slug(text: str) -> str:
    """`Warm pad, in C` -> `warm-pad-in-c`: at most 40 letters, digits, _ and -."""
    return re.sub(r"[^\w]+", "-", text.lower()).strip("-")[:_WORDS].rstrip("-") or "clip"
