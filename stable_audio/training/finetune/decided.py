"""Everything that was decided, as ordinary files: model file, dataset files, captions, and the command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stable_audio.audio.atomic import atomic_write
from stable_audio.audio.json_files import read_json_object
from stable_audio.characters import readable_json
from stable_audio.training.errors import TrainingError
from stable_audio.training.finetune.clips import FolderClip, FolderClips
from stable_audio.training.options import RunOptions
from stable_audio.wording import flag_of

FOLDER = "finetune"
"""Folder of these files, in that of the run."""

MODEL, DATASET, SOUNDS = "model.json", "dataset.json", "sounds.json"
CAPTIONS, LISTING, DECIDED = "captions.jsonl", "files.txt", "decided.json"


@dataclass(frozen=True)
class Decided:
    """A fine-tune that is ready to run.

    Attributes:
        folder: folder of its files.
        request: what was asked for.
        run: options of the run that differ from the defaults, by name.
        report: the lines that tell what was decided.
        examples: conditioning to compare before with after.
        sampling: how these are sampled.
        device_memory: bytes that the plan was told to keep within; None: what was free.
    """

    folder: Path
    request: Mapping[str, Any]
    run: Mapping[str, Any]
    report: Sequence[str]
    examples: Sequence[Mapping[str, Any]]
    sampling: Mapping[str, Any]
    device_memory: float | None = None

    @property
    def model(self) -> Path:
        """The model file."""
        return self.folder / MODEL

    @property
    def dataset(self) -> Path:
        """The dataset file."""
        return self.folder / DATASET

    @property
    def command(self) -> str:
        """The command that repeats the run, in a folder of its own."""
        words = ["python", "train.py", "--model-config", str(self.model), "--dataset-config"]
        words.append(str(self.dataset))
        for name, value in {**self.run, "name": f"{self.run['name']}-again"}.items():
            if name == "recover":
                continue
            flag = flag_of(name)
            words += (
                [flag, str(value)]
                if not isinstance(value, bool)
                else [flag]
                if value
                else [f"--no-{flag[2:]}"]
            )
        return shlex.join(words)

    def write(self) -> None:
        """Write `decided.json`, which the same request finds when it comes again."""
        values = {key: value for key, value in asdict(self).items() if key != "folder"}
        write_json(self.folder / DECIDED, values)


def stored(folder: Path, request: Mapping[str, Any]) -> Decided | None:
    """What an earlier, equal request decided in the folder of a run; None if there was none.

    Raises:
        TrainingError: there was another one.
    """
    path = folder / FOLDER / DECIDED
    if not path.is_file():
        return None
    values = read_json_object(path)
    asked = json.loads(json.dumps(dict(request)))
    differing = sorted(k for k in {*asked, *values["request"]} if asked.get(k) != values["request"].get(k))
    if differing:
        changes = ", ".join(f"{k} was {values['request'].get(k)!r}, is {asked.get(k)!r}" for k in differing)
        raise TrainingError(
            f"{folder}: holds a fine-tune with other settings ({changes}); ask for the same to continue, "
            "choose another --out, or replace it with --overwrite"
        )
    return Decided(path.parent, **values)


def write_sounds(folder: Path, clips: FolderClips) -> Path:
    """Write the captions, the list of files and the dataset file of the sounds; returns the last."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [readable_json(_row(clip), default=str) for clip in clips.clips]
    _write(folder / CAPTIONS, "".join(f"{row}\n" for row in rows))
    _write(folder / LISTING, "".join(f"{clip.path}\n" for clip in clips.clips))
    entry = {
        "id": "sounds",
        "path": str(clips.folder),
        "filelist_path": str((folder / LISTING).absolute()),
        "manifest": str((folder / CAPTIONS).absolute()),
        "captions": False,
    }
    write_json(folder / SOUNDS, {"dataset_type": "audio_dir", "datasets": [entry]})
    return folder / SOUNDS


def latents_dataset(
    folders: Sequence[tuple[str, Path, float]], *, crop_frames: int | None, random_crop: bool
) -> dict[str, Any]:
    """The dataset file of stored latents.

    Args:
        folders: (id, folder, relative chance of each clip).
        crop_frames: frames of a clip; None: as stored.
        random_crop: whether longer clips are cut at random.
    """
    entries = [
        {"id": name, "path": str(path.absolute()), **({"weight": weight} if weight != 1 else {})}
        for name, path, weight in folders
    ]
    dataset: dict[str, Any] = {"dataset_type": "pre_encoded", "datasets": entries}
    if crop_frames is not None:
        dataset |= {"latent_crop_length": crop_frames, "random_crop": random_crop}
    return dataset


def run_options(**settings: Any) -> dict[str, Any]:
    """Options of a run that differ from the defaults, checked.

    Raises:
        TrainingError: a value out of range.
    """
    defaults, options = RunOptions(), RunOptions(**settings)
    return {
        name: value
        for name, value in vars(options).items()
        if name in settings and (value != getattr(defaults, name) or name in ("name", "save_dir", "seed"))
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    _write(path, readable_json(content, indent=2, default=str) + "\n")


def _row(clip: FolderClip) -> dict[str, Any]:
    return {"path": clip.path, **clip.metadata}


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
