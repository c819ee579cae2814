"""The JSON beside each rendered file: all that is needed to render it again, and how it went."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_audio.audio.atomic import atomic_write
from stable_audio.inference.settings import Sampling

FORMAT = "stable-audio render"
VERSION = 1
_EDGE = 1 << 20
_FILES = ("checkpoint", "pretransform", "init_audio", "inpaint_audio")


@dataclass(frozen=True)
class InputFile:
    """A file that took part: where it lay, and a digest of its content."""

    path: str
    digest: str

    @classmethod
    def of(cls, path: str | Path) -> InputFile:
        """The file at `path` as it is now."""
        return cls(str(Path(path).resolve()), file_digest(path))


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the sound of one file; plain values.

    Attributes:
        checkpoint, pretransform: the weights; the second one where the autoencoder has its own file.
        use_ema, dtype: how they were loaded. config: the model's configuration.
        sample_size: samples that were generated, before the cut to `seconds`.
        condition_audio: files that the conditioning names, by id.
        inpaint_seconds: spans (start, end) that were generated anew within inpaint_audio.
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

    def digest(self) -> str:
        """Hash of what shapes the sound; paths do not count, contents do."""
        values = dataclasses.asdict(self)
        for key in _FILES:
            if values[key] is not None:
                values[key].pop("path")
        sounds = values.pop("condition_audio")
        if sounds:
            values["condition_audio"] = {key: file["digest"] for key, file in sounds.items()}
            ids = {key.split(".")[0] for key in sounds}
            values["conditioning"] = {k: v for k, v in self.conditioning.items() if k not in ids}
        text = json.dumps(values, sort_keys=True, default=_plain)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def sampling_values(sampling: Sampling) -> dict[str, Any]:
    """A Sampling as JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(sampling), default=_plain))


def sampling_from(values: dict[str, Any]) -> Sampling:
    """Back from `sampling_values`."""
    return Sampling(**{**values, "cfg_interval": tuple(values["cfg_interval"])})


def file_digest(path: str | Path) -> str:
    """Size and hash of both ends of a file: tells weights apart without reading gigabytes."""
    size = Path(path).stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        digest.update(file.read(_EDGE))
        file.seek(max(size - _EDGE, 0))
        digest.update(file.read(_EDGE))
    return digest.hexdigest()[:16]


def write_recipe(path: Path, recipe: Recipe, output: dict[str, Any], software: dict[str, Any]) -> None:
    """Write the JSON; it comes after the sound, so that its presence means that both are whole."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "digest": recipe.digest(),
        "recipe": dataclasses.asdict(recipe),
        "output": output,
        "software": software,
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=_plain) + "\n", encoding="utf-8")


def read_recipe(path: str | Path) -> Recipe:
    """Read the JSON of a rendered file.

    Raises:
        ValueError: not such a file, or from a newer version.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: is not JSON ({error.msg}, line {error.lineno})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: is not the JSON of a rendered file; 'format' must be '{FORMAT}'")
    if content["version"] > VERSION:
        raise ValueError(f"{path}: has version {content['version']}, this program knows up to {VERSION}")
    values = dict(content["recipe"])
    for key in _FILES:
        if values.get(key) is not None:
            values[key] = InputFile(**values[key])
    sounds = values.get("condition_audio")
    if sounds is not None:
        values["condition_audio"] = {key: InputFile(**file) for key, file in sounds.items()}
    return Recipe(**values)


def finished(folder: Path, recipe: Recipe, suffix: str) -> Path | None:
    """The file in `folder` that this recipe has already made, if it and its JSON are whole."""
    digest = recipe.digest()
    for path in sorted(folder.glob(f"*_{digest[:8]}.json")):
        sound = path.with_suffix(f".{suffix}")
        try:
            known = json.loads(path.read_text(encoding="utf-8")).get("digest")
        except (OSError, ValueError, AttributeError):
            continue
        if known == digest and sound.is_file() and sound.stat().st_size > 0:
            return sound
    return None


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    return dict(value)
